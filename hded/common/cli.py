"""Command lines and their exit: a user's mistake is one line and exit status 2."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from tqdm import tqdm

from hded.common.errors import HDEDError, one_line, out_of_memory

# errors of a disk that cannot be written: error numbers, and messages of libraries
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
        """Print the message in one line and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command and exit with status 0, 2 after a user's mistake, or 130 after Ctrl-C.

    A full or read-only disk counts as a mistake, whichever library reports it.
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
        # exit without clean-up, where libraries that cannot close their files crash (HDF5 does)
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
    # start a new line if a progress bar is still displayed
    start = "\n" if getattr(tqdm, "_instances", None) else ""
    print(f"{start}error: {one_line(message)}", file=sys.stderr, flush=True)
