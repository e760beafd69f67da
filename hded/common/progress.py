"""The progress bar of every long loop."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 10.0  # between updates in a log file, to keep it short


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Return tqdm's bar with a rate and an ETA, updated rarely where stderr is not a terminal."""
    if not sys.stderr.isatty():
        options.setdefault("mininterval", LOG_INTERVAL_S)
    return tqdm(iterable, dynamic_ncols=True, **options)
