"""Removal of secrets from URLs: user names, passwords and queries, which may be signed."""

import re

# the part before the last @ of the authority; the query
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#'\"]*@")
_QUERY = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s?#'\"]*\?)[^\s#'\"]+")


def hide_secrets(text: str) -> str:
    """Return the text with user names, passwords and queries of its URLs replaced by `...`."""
    return _QUERY.sub(r"\1...", _USER.sub(r"\1...@", text))
