"""The exception class for mistakes of the user, and helpers for error messages."""

from collections.abc import Iterable

from hded.common.secrets import hide_secrets


class HDEDError(Exception):
    """A mistake of the user; the message is one line: what is wrong, where, and what to do.

    Command lines print the message without a traceback and exit with status 2. Unprintable
    characters are escaped, so that the message is one line whatever a file or a name contains;
    secrets in URLs are hidden.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hide_secrets(one_line(message)))


def out_of_memory(error: BaseException) -> bool:
    """Return whether the host or a GPU ran out of memory; torch raises its own errors for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def one_line(text: str) -> str:
    """Return the text as one line, with unprintable characters escaped."""
    joined = " ".join(line.strip() for line in text.splitlines())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in joined)


def check_choice(what: str, value: object, choices: Iterable[object]) -> None:
    """Raise HDEDError where `value` is not among `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise HDEDError(f"{what} is {value!r}; choose from {', '.join(map(str, choices))}")


def first_line(error: BaseException, limit: int = 150) -> str:
    """Return the first line of an error's message, or its type's name if there is none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
