"""The one exception class for mistakes that a user can make."""


class HDEDError(Exception):
    """One line: what is wrong, where it is, and what to do about it.

    Command lines print the message without a traceback and exit with status 2.
    """
