"""Apply a trained network to photographs: the one that comes with the project, or another.

    hded predict PHOTO...
    hded refocus PHOTO... --focus-distance-m 1.5
    hded demo
    hded export --checkpoint weights.safetensors --out network.onnx

`hded COMMAND --help` tells what a command writes.
"""

from typing import NoReturn

from hded.commands import demo, export, predict, refocus
from hded.common.cli import Parser, run

COMMANDS = {
    "predict": (predict, predict.predict),
    "refocus": (refocus, refocus.refocus_photographs),
    "demo": (demo, demo.demo),
    "export": (export, export.export),
}


def main() -> None:
    """Parse the command line and run the command."""
    parser = Parser(prog="hded", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, command) in COMMANDS.items():
        text = module.__doc__ or ""
        added = commands.add_parser(name, help=text.partition(".")[0], description=text)
        module.add_arguments(added)
        added.set_defaults(command=command)
    arguments = parser.parse_args()
    arguments.command(arguments)


def command() -> NoReturn:
    """Run the console command `hded`, and exit."""
    run(main)


if __name__ == "__main__":
    command()
