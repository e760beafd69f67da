"""Command lines and their exit: a user's mistake is one line and exit status 2."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from tqdm import tqdm

from hded.common.errors import HDEDError, one_line, out_of_memory

# what a disk says that takes nothing more, by number or in the words of a library around it
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
WORDS = (
    *(os.strerror(number) for number in UNWRITABLE[:3]),
    "database or disk is full",
    "attempt to write a readonly database",
    "disk I/O error",
)


class Parser(argparse.ArgumentParser):
    """An argument parser that prints the module's docstring as it is, and errors in one line."""

    def __init__(self, **options: object) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command and exit: 0, 2 after a mistake of the user, 130 after Ctrl-C.

    A disk that is full or read-only counts as a mistake, whichever library met it.
    """
    try:
        main()
    except HDEDError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        reason = unwritable(error)
        if reason is None and isinstance(error, OSError) and error.filename is not None:
            _fail(f"{os.fsdecode(error.filename)}: {error.strerror}")
        if reason is None and out_of_memory(error):
            _fail(
                "there is not enough memory; close other programs, or use a smaller batch or tile"
            )
        if reason is None:
            raise
        _say(f"cannot use {reason}: free some space or make it writable, then run again")
        # without clean-up: a library that cannot close its file crashes there (HDF5 does)
        sys.stdout.flush()
        os._exit(2)
    sys.exit(0)


def unwritable(error: BaseException) -> str | None:
    """Return the disk error among `error` and its causes, in words; None if there is none."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in UNWRITABLE:
            return f"{link.filename or 'a file'} ({os.strerror(link.errno)})"
        for words in WORDS:
            if words in str(link):
                return f"a file ({words})"
        link = link.__cause__ or link.__context__
    return None


def _fail(message: str) -> NoReturn:
    _say(message)
    sys.exit(2)


def _say(message: str) -> None:
    # a line of its own below a progress bar that still stands
    start = "\n" if getattr(tqdm, "_instances", None) else ""
    print(f"{start}error: {one_line(message)}", file=sys.stderr, flush=True)
