"""Apply a trained network to photographs, or export it as ONNX.

    hded predict PHOTO... --checkpoint weights.safetensors --out DIR
    hded export --checkpoint weights.safetensors --out network.onnx

`predict` takes photographs, and folders of them. For PHOTO.jpg it writes, at the photograph's own
size: PHOTO_depth.png (16-bit, millimetres), PHOTO_depth_preview.png, PHOTO_all_in_focus.png, and
PHOTO.json, which says by which lens depth was found and what its limits are. The lens is that of
the options, or else of EXIF. Where the focus distance is not known, and the network was trained
through several lenses, depth is in units of it: PHOTO_depth_relative.png holds thousandths.
"""

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image

from hded.common.cli import Parser, run
from hded.common.errors import HDEDError
from hded.common.files import is_hidden, write_json
from hded.common.progress import progress
from hded.inference import Predictor, load_predictor
from hded.inference.onnx import export_onnx
from hded.inference.photo import (
    LARGEST,
    OVERLAP_PX,
    TILE_PX,
    Estimate,
    Photo,
    estimate,
    preview,
    read_photo,
)
from hded.inference.view import View, view_of
from hded.network import HEADS
from hded.optics.photograph import StatedLens

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
LENS = {  # options: what they state, in which unit, and how many of them make one of ours
    "--focal-length-mm": ("focal_length_m", "of the lens itself, not its 35 mm equivalent", 1e-3),
    "--f-number": ("f_number", "such as 2.8", 1.0),
    "--focus-distance-m": ("focus_distance_m", "from the lens to what is in focus", 1.0),
    "--sensor-width-mm": ("sensor_width_m", "of the photograph's long side", 1e-3),
}


def main() -> None:
    """Parse the command line and run the command."""
    parser = Parser(prog="hded", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict", help="estimate depth and the all-in-focus image of photographs"
    )
    predict.add_argument("images", nargs="+", type=Path, metavar="PHOTO")
    predict.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    predict.add_argument(
        "--tile",
        type=int,
        default=TILE_PX,
        help="process photographs with a longer side in tiles of this side [px]",
    )
    predict.add_argument(
        "--overlap", type=int, default=OVERLAP_PX, help="overlap of neighbouring tiles [px]"
    )
    predict.add_argument(
        "--floats", action="store_true", help="write depth as float32 in .npy, too"
    )
    _add_lens(predict)
    predict.set_defaults(command=_predict)
    export = commands.add_parser("export", help="write the network as an ONNX file")
    export.set_defaults(command=_export)
    for command, out in ((predict, "folder for the results"), (export, "the .onnx file to write")):
        command.add_argument(
            "--checkpoint",
            required=True,
            type=Path,
            help="the weights.safetensors of a trained network",
        )
        command.add_argument("--out", required=True, type=Path, help=out)
        command.add_argument(
            "--heads", nargs="+", choices=HEADS, help="compute only these outputs (default: all)"
        )
    arguments = parser.parse_args()
    arguments.command(arguments)


def _add_lens(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("lens", "that of all the photographs, instead of their EXIF")
    for option, (_, text, _) in LENS.items():
        group.add_argument(option, type=_positive, help=text)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _stated(arguments: Namespace) -> StatedLens:
    """Return the lens of the options."""
    found = {}
    for option, (name, _, unit) in LENS.items():
        value = getattr(arguments, option.strip("-").replace("-", "_"))
        found[name] = None if value is None else value * unit
    return StatedLens(**found)


def _predict(arguments: Namespace) -> None:
    paths = list(_photographs(arguments.images))
    twice = [s for s, n in Counter(path.stem for path in paths).items() if n > 1]
    if twice:
        raise HDEDError(
            f"two images are named {twice[0]}; rename one, or its results overwrite the other's"
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise HDEDError("--device: cuda is not available on this machine; use cpu")
    predictor = load_predictor(arguments.checkpoint, arguments.device, arguments.heads)
    _make_folder(arguments.out)
    options, failed = _stated(arguments), []
    bar = progress(paths, desc="predict", unit="image")
    for path in bar:
        try:
            photo, stated, view = _open(path, predictor, options)
        except HDEDError as error:
            failed.append(str(error))
            continue
        found = estimate(predictor, photo.rgb, arguments.tile, arguments.overlap, view)
        notes = [*view.notes, *_remarks(predictor, photo, found)]
        for note in notes:
            bar.write(f"{path}: {note}")
        _write(arguments, path.stem, photo, found, view.unit != "m")
        record = _record(predictor, arguments.checkpoint, photo, stated, view)
        write_json(arguments.out / f"{path.stem}.json", record | {"notes": notes})
    if failed:
        raise HDEDError("; ".join(failed))


def _photographs(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the photographs, those in folders in the order of their names."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
        inside = [p for p in inside if not is_hidden(p.name)]
        if not inside:
            raise HDEDError(f"{path}: has no photograph ({', '.join(SUFFIXES)})")
        yield from inside


def _open(path: Path, predictor: Predictor, options: StatedLens) -> tuple[Photo, StatedLens, View]:
    """Return a photograph, its lens by the options or else by EXIF, and its way to the network."""
    photo = read_photo(path)
    stated = options.or_else(photo.lens)
    height, width = photo.rgb.shape[:2]
    try:
        return photo, stated, view_of(predictor, (height, width), stated)
    except HDEDError as error:
        raise HDEDError(f"{path}: {error}") from error


def _remarks(predictor: Predictor, photo: Photo, found: Estimate) -> Iterator[str]:
    """Yield what a user must know of one result."""
    height, width = photo.rgb.shape[:2]
    if predictor.geometry == "resize":
        side = predictor.size_px
        yield (
            f"the network was trained on frames resized to {side}x{side}; its results are computed "
            f"at that size and enlarged to {width}x{height}"
        )
    if found.thousandths is not None:
        saturated = float((found.thousandths == LARGEST).mean())
        if saturated:
            yield (
                f"{saturated:.1%} of the depth is at or beyond {LARGEST / 1000} m, the most that "
                f"16 bits of millimetres hold; those pixels are {LARGEST}"
            )


def _write(arguments: Namespace, stem: str, photo: Photo, found: Estimate, relative: bool) -> None:
    """Write the images of one photograph."""
    name = f"{stem}_depth_relative" if relative else f"{stem}_depth"
    depth = found.thousandths
    if depth is not None:
        _save(Image.fromarray(depth).save, arguments.out / f"{name}.png")
        _save(preview(depth).save, arguments.out / f"{stem}_depth_preview.png")
        if arguments.floats:
            values = found.depth
            _save(lambda path: np.save(path, values), arguments.out / f"{name}.npy")  # pyright: ignore[reportArgumentType]
    image = found.all_in_focus
    if image is not None:
        _save(lambda path: photo.save(image, path), arguments.out / f"{stem}_all_in_focus.png")


def _record(
    predictor: Predictor, checkpoint: Path, photo: Photo, stated: StatedLens, view: View
) -> dict[str, Any]:
    """Return what PHOTO.json says beside the notes."""
    return {
        "checkpoint": str(checkpoint),
        "heads": list(predictor.network.heads),
        "size": list(photo.rgb.shape[:2]),
        "scale": view.scale,
        "lens": {
            name: {
                "value": value,
                "from": "exif" if value == getattr(photo.lens, name) else "option",
            }
            for name, value in asdict(stated).items()
            if value is not None
        },
        "depth_unit": view.unit,
        "trained_through": [dict(camera) for camera in predictor.cameras],
    }


def _export(arguments: Namespace) -> None:
    predictor = load_predictor(arguments.checkpoint, "cpu", arguments.heads)
    _make_folder(arguments.out.parent)
    export_onnx(predictor, arguments.out)
    size_mb = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {', '.join(predictor.network.heads)}, {size_mb:.1f} MB")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HDEDError(f"{folder}: cannot be created ({error.strerror})") from error


def _save(save: Callable[[Path], None], path: Path) -> None:
    try:
        save(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise HDEDError(f"{path}: cannot be written ({error.strerror or error})") from error


def command() -> NoReturn:
    """Run the console command `hded`, and exit."""
    run(main)


if __name__ == "__main__":
    command()
