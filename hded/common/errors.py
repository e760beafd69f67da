"""The one exception class for mistakes that a user can make."""

from collections.abc import Iterable

from hded.common.secrets import hide_secrets


class HDEDError(Exception):
    """One line: what is wrong, where it is, and what to do about it.

    Command lines print the message without a traceback and exit with status 2. What of a user's own
    text cannot be printed is escaped, so that it is one line whatever a file or a name holds; what
    a URL holds that is secret is hidden.
    """

    def __init__(self, message: str) -> None:
        super().__init__(hide_secrets(one_line(message)))


def out_of_memory(error: BaseException) -> bool:
    """Return whether the host's memory or a GPU's ran out; torch has errors of its own for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def one_line(text: str) -> str:
    """Join lines, and escape what cannot be printed."""
    joined = " ".join(line.strip() for line in text.splitlines())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in joined)


def check_choice(what: str, value: object, choices: Iterable[object]) -> None:
    """Raise HDEDError where `value` is not among `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise HDEDError(f"{what} is {value!r}; choose from {', '.join(map(str, choices))}")


def first_line(error: BaseException, limit: int = 150) -> str:
    """Return what an error says in one line, its type's name if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
