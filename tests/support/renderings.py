"""Records of the stage `defocus`."""

from hded.config.schema import Defocus
from hded.defocus_diagnostics import BlurCount
from pipeline.defocus import Rendering


def records_of(scenes, table, cameras) -> list[dict]:
    """Return what the stage `defocus` stores of each row of the table."""
    render = Rendering(scenes, table, cameras, Defocus(), BlurCount(29.0, "quarter"))
    return [render(position)[0] for position in range(len(table))]
