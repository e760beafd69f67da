"""`lenses.csv` of a user's own folder: the lens that took each frame, or shall blur it.

A row for each frame: `frame`, its name with or without suffix, and one or more of
`focal_length_mm`, `f_number` and `focus_distance_m`. What a frame's row leaves open is that of the
camera in params.yaml; only a camera with `photographs: true` takes a frame's own lens.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from hded.common.errors import HDEDError
from hded.common.files import composed
from hded.optics.camera import STATED

FILE = "lenses.csv"
COLUMNS = {  # each column's name in the table of frames, and its unit
    "focal_length_mm": ("focal_length_m", 1e-3),
    "f_number": ("f_number", 1.0),
    "focus_distance_m": ("focus_distance_m", 1.0),
}
SHOWN = 5


def read_lenses(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Return a column for each number that is stated, in metres, and a row for each of `names`.

    The columns are those of `Camera.of_frame`. Raises HDEDError, naming file and frame, for a
    table that cannot be read, for a frame without a row or with two, and for what is no positive
    number.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise HDEDError(f"{path}: cannot be read as a table ({error})") from error
    known = [name for name in COLUMNS if name in table.columns]
    odd = [name for name in table.columns if name not in ("frame", *COLUMNS)]
    if "frame" not in table.columns or not known or odd:
        raise HDEDError(
            f"{path}: has the columns {', '.join(table.columns)}; give frame and one or more of "
            f"{', '.join(COLUMNS)}"
        )
    stems = [composed(PurePosixPath(str(frame)).stem) for frame in table["frame"]]
    wanted = set(names)
    frames = [f if f in wanted else stem for f, stem in zip(table["frame"], stems, strict=True)]
    listed = set(frames)
    if len(listed) < len(frames):
        twice = next(name for name in frames if frames.count(name) > 1)
        raise HDEDError(f"{path}: {twice} is listed twice")
    if missing := [name for name in names if name not in listed]:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise HDEDError(f"{path}: has no row for {', '.join(missing[:SHOWN])}{more}")
    rows = table.assign(frame=frames).set_index("frame").loc[list(names)]
    return pd.DataFrame(
        {
            STATED[COLUMNS[column][0]]: [
                _number(path, name, column, text) * COLUMNS[column][1]
                for name, text in rows[column].items()
            ]
            for column in known
        }
    )


def _number(path: Path, frame: object, column: str, text: str) -> float:
    """Return a positive number; NaN for an empty cell."""
    if not text.strip():
        return np.nan
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not 0 < number < np.inf:
        raise HDEDError(f"{path}: {frame}: {column} is {text!r}; give a positive number")
    return number
