"""What a URL may carry that nothing may show: a user, a password, a signed query."""

import re

# up to the last @ of the part before the path, then the query
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#'\"]*@")
_QUERY = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s?#'\"]*\?)[^\s#'\"]+")


def hide_secrets(text: str) -> str:
    """Return the text with user names, passwords and queries of its URLs as three dots."""
    return _QUERY.sub(r"\1...", _USER.sub(r"\1...@", text))
