"""The one exception class for mistakes that a user can make, and the texts of its messages."""

import re
from collections.abc import Iterable

# secrets of a URL: user and password, up to the last @ before the path; a signed query
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#'\"]*@")
_QUERY = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s?#'\"]*\?)[^\s#'\"]+")


class HDEDError(Exception):
    """A mistake of the user; the message is one line: what is wrong, where, and what to do.

    Commands print the message without a traceback and exit with status 2. Unprintable characters
    of a user's own text are escaped, so that it is one line whatever a file or a name contains;
    passwords in URLs are hidden.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hide_secrets(one_line(message)))


def hide_secrets(text: str) -> str:
    """Return the text with user names, passwords and queries of its URLs as three dots."""
    return _QUERY.sub(r"\1...", _USER.sub(r"\1...@", text))


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on the host or a GPU; torch has its own errors for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def one_line(text: str) -> str:
    """Return text in one line, with unprintable characters escaped."""
    joined = " ".join(line.strip() for line in text.splitlines())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in joined)


def check_choice(what: str, value: object, choices: Iterable[object]) -> None:
    """Raise HDEDError where `value` is not among `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise HDEDError(f"{what} is {value!r}; choose from {', '.join(map(str, choices))}")


def first_line(error: BaseException | str, limit: int = 150) -> str:
    """Return the first line of an error's message, or its type's name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
