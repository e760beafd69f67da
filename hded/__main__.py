"""Apply a trained network to photos, or export it as ONNX.

    hded predict IMAGE... --checkpoint weights.safetensors --out DIR
    hded export --checkpoint weights.safetensors --out network.onnx

`predict` writes, for IMAGE.jpg: IMAGE_depth.png (16-bit, millimetres), IMAGE_depth_preview.png and
IMAGE_all_in_focus.png, at the photo's own size.
"""

from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import NoReturn

import torch
from PIL import Image

from hded.common.cli import Parser, run
from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.inference import load_predictor
from hded.inference.onnx import export_onnx
from hded.inference.photo import MAX_MM, OVERLAP_PX, TILE_PX, estimate, preview, read_photo
from hded.network import HEADS


def main() -> None:
    """Parse the command line and run the command."""
    parser = Parser(prog="hded", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict", help="estimate depth and the all-in-focus image of photos"
    )
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    predict.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    predict.add_argument(
        "--tile",
        type=int,
        default=TILE_PX,
        help="process photos with a longer side in tiles of this side [px]",
    )
    predict.add_argument(
        "--overlap", type=int, default=OVERLAP_PX, help="overlap of neighbouring tiles [px]"
    )
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


def _predict(arguments: Namespace) -> None:
    twice = [s for s, n in Counter(path.stem for path in arguments.images).items() if n > 1]
    if twice:
        raise HDEDError(
            f"two images are named {twice[0]}; rename one, or its results overwrite the other's"
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise HDEDError("--device: cuda is not available on this machine; use cpu")
    predictor = load_predictor(arguments.checkpoint, arguments.device, arguments.heads)
    _make_folder(arguments.out)
    failed = []
    bar = progress(arguments.images, desc="predict", unit="image")
    for path in bar:
        try:
            rgb = read_photo(path)
        except HDEDError as error:
            failed.append(str(error))
            continue
        if predictor.geometry == "resize":
            side = predictor.size_px
            bar.write(
                f"{path}: the network was trained on frames resized to {side}x{side}; its "
                f"results are computed at that size and enlarged to {rgb.shape[1]}x{rgb.shape[0]}"
            )
        found = estimate(predictor, rgb, arguments.tile, arguments.overlap)
        if found.saturated:
            bar.write(
                f"{path}: {found.saturated:.1%} of the depth is at or beyond {MAX_MM / 1000} m, "
                "the most that 16 bits of millimetres hold; those pixels are 65535"
            )
        if found.depth_mm is not None:
            _save(Image.fromarray(found.depth_mm), arguments.out / f"{path.stem}_depth.png")
            _save(preview(found.depth_mm), arguments.out / f"{path.stem}_depth_preview.png")
        if found.all_in_focus is not None:
            image = Image.fromarray(found.all_in_focus)
            _save(image, arguments.out / f"{path.stem}_all_in_focus.png")
    if failed:
        raise HDEDError("; ".join(failed))


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


def _save(image: Image.Image, path: Path) -> None:
    try:
        image.save(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise HDEDError(f"{path}: cannot be written ({error.strerror or error})") from error


def command() -> NoReturn:
    """Run the console command `hded`, and exit."""
    run(main)


if __name__ == "__main__":
    command()
