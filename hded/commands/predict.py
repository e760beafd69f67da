"""Estimate depth and the all-in-focus image of photographs.

Takes photographs, and folders of them. For PHOTO.jpg it writes, at the photograph's own size:
PHOTO_depth.png (16-bit, millimetres), PHOTO_depth_preview.png, PHOTO_all_in_focus.png, and
PHOTO.json, which records what is known of the lens, and warnings. A network that estimates its
confidence also gives PHOTO_confidence.png: the probability, 0 to 255, that depth is within a factor
of 1.25. The lens is taken from the options, otherwise from EXIF. Where it is not wholly known and
the network was trained with several lenses, depth is relative: PHOTO_depth_relative.png holds
thousandths of the focus distance.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hded.commands.common import (
    RESULTS,
    add_device,
    add_lens,
    add_network,
    load_for_photographs,
    make_folder,
    open_photo,
    photographs,
    save,
    stated_lens,
)
from hded.common.errors import HDEDError
from hded.common.files import write_json
from hded.common.heads import HEADS
from hded.common.progress import progress
from hded.inference import Predictor
from hded.inference.photo import (
    LARGEST,
    OVERLAP_PX,
    TILE_PX,
    Estimate,
    Photo,
    estimate,
    preview,
)
from hded.inference.view import View
from hded.optics.photograph import StatedLens


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("images", nargs="+", type=Path, metavar="PHOTO")
    add_network(parser, "folder for the results", RESULTS)
    parser.add_argument(
        "--heads", nargs="+", choices=HEADS, help="compute only these outputs (default: all)"
    )
    add_device(parser)
    parser.add_argument(
        "--tile",
        type=int,
        default=TILE_PX,
        help="side of the tiles [px] in which larger images, as resized for the network, are done",
    )
    parser.add_argument(
        "--overlap", type=int, default=OVERLAP_PX, help="overlap of neighbouring tiles [px]"
    )
    parser.add_argument(
        "--hflip",
        action="store_true",
        help="average with the results of the mirrored photograph, in twice the time",
    )
    parser.add_argument("--floats", action="store_true", help="write depth as float32 in .npy, too")
    add_lens(parser)


def predict(arguments: Namespace) -> None:
    """Run the command; a photograph that cannot be read does not stop the others."""
    paths = photographs(arguments.images, arguments.out)
    predictor = load_for_photographs(
        arguments.checkpoint, arguments.device, arguments.heads, hflip=arguments.hflip
    )
    options, failed = stated_lens(arguments), []
    bar = progress(paths, desc="predict", unit="image")
    for path in bar:
        try:
            photo, stated, view = open_photo(path, predictor, options)
        except HDEDError as error:
            failed.append(str(error))
            continue
        make_folder(arguments.out)
        found = estimate(predictor, photo.rgb, arguments.tile, arguments.overlap, view)
        depth = found.thousandths
        notes = [*view.notes, *found.notes, *_remarks(predictor, photo, depth, view.unit)]
        for note in notes:
            bar.write(f"{path}: {note}")
        _write(arguments, path.stem, photo, found, depth, relative=view.unit != "m")
        record = _record(predictor, arguments.checkpoint, photo, stated, view)
        write_json(arguments.out / f"{path.stem}.json", record | {"notes": notes})
    if done := len(paths) - len(failed):
        print(f"{arguments.out}: results of {done} photograph{'s' if done > 1 else ''}")
    if failed:
        raise HDEDError("; ".join(failed))


def _remarks(
    predictor: Predictor, photo: Photo, depth: NDArray[np.uint16] | None, unit: str
) -> Iterator[str]:
    """Yield what a user must know of one result; depth: in thousandths of its unit."""
    height, width = photo.rgb.shape[:2]
    if predictor.geometry == "resize":
        side = predictor.size_px
        yield (
            f"the network was trained on frames resized to {side}x{side}; its results are computed "
            f"at that size and enlarged to {width}x{height}"
        )
    if depth is not None:
        units = "m" if unit == "m" else "focus distances"
        saturated = float((depth == LARGEST).mean())
        if saturated:
            yield (
                f"{saturated:.1%} of the depth is at or beyond {LARGEST / 1000} {units}, the most "
                f"that 16 bits of thousandths hold; those pixels are {LARGEST}"
            )


def _write(
    arguments: Namespace,
    stem: str,
    photo: Photo,
    found: Estimate,
    depth: NDArray[np.uint16] | None,
    *,
    relative: bool,
) -> None:
    """Write the images of one photograph."""
    name = f"{stem}_depth_relative" if relative else f"{stem}_depth"
    values, image = found.depth, found.all_in_focus
    if depth is not None and values is not None:
        save(Image.fromarray(depth).save, arguments.out / f"{name}.png")
        save(preview(depth).save, arguments.out / f"{stem}_depth_preview.png")
        if arguments.floats:
            save(partial(np.save, arr=values), arguments.out / f"{name}.npy")
        other = f"{stem}_depth" if relative else f"{stem}_depth_relative"
        for end in (".png", ".npy"):  # an earlier run's, in a unit that PHOTO.json no longer states
            (arguments.out / f"{other}{end}").unlink(missing_ok=True)
    if found.confidence is not None:
        sure = np.rint(255 * found.confidence).astype(np.uint8)
        save(Image.fromarray(sure).save, arguments.out / f"{stem}_confidence.png")
    if image is not None:
        save(partial(photo.save, image), arguments.out / f"{stem}_all_in_focus.png")


def _record(
    predictor: Predictor, checkpoint: str, photo: Photo, stated: StatedLens, view: View
) -> dict[str, Any]:
    """Return what PHOTO.json says beside the notes."""
    exif = asdict(photo.lens)
    return {
        "checkpoint": checkpoint,
        "heads": list(predictor.network.heads),
        "size": list(photo.rgb.shape[:2]),
        "bits_per_channel": 8 * photo.rgb.dtype.itemsize,
        "scale": view.scale,
        "hflip": predictor.hflip,
        "lens": {
            name: {"value": value, "from": "exif" if value == exif[name] else "option"}
            for name, value in asdict(stated).items()
            if value is not None
        },
        "depth_unit": view.unit,
        "trained_through": [dict(camera) for camera in predictor.cameras],
    }
