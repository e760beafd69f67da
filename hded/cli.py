"""How every command line of the project ends: a user's mistake is one line and exit status 2."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from hded.errors import HDEDError, one_line


class Parser(argparse.ArgumentParser):
    """argparse with the module's docstring as it stands, and errors in one line."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command and exit: 0, 2 after a mistake of the user, 130 after Ctrl-C."""
    try:
        main()
    except HDEDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
