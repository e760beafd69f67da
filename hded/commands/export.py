"""Write a trained network as an ONNX file, for images of any size."""

from argparse import ArgumentParser, Namespace

from hded.commands.common import add_network, load_network, make_folder
from hded.common.errors import HDEDError
from hded.common.heads import HEADS
from hded.inference.onnx import export_onnx


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_network(parser, "the .onnx file to write")
    parser.add_argument(
        "--heads", nargs="+", choices=HEADS, help="export only these outputs (default: all)"
    )


def export(arguments: Namespace) -> None:
    """Run the command."""
    if not arguments.out.name or arguments.out.is_dir():
        raise HDEDError(f"--out: {arguments.out} is a folder; give the name of the file to write")
    predictor = load_network(arguments.checkpoint, heads=arguments.heads)
    make_folder(arguments.out.parent)
    export_onnx(predictor, arguments.out)
    size_mb = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {', '.join(predictor.network.heads)}, {size_mb:.1f} MB")
