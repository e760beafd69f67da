"""One test image as every system restores it and measures its depth (the paper's Figures 9, 10)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hded.report.page.colour import Bar, Inlined, Scale, photograph
from hded.report.page.pictures import BOTH, read_pictures
from hded.report.read.runs import Run, Scene
from hded.report.tables.model import number

SIDE_PX, QUALITY = 300, 84


@dataclass(frozen=True, slots=True)
class Panel:
    """One image with its name and its score."""

    title: str
    score: str
    image: Inlined


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The panels of one frame; without any of a kind, that list is empty."""

    frame: str
    images: Sequence[Panel]
    depths: Sequence[Panel]
    depth_bar: Bar | None

    @property
    def characters(self) -> int:
        """Return the total length of all data URIs."""
        return sum(len(panel.image.uri) for panel in (*self.images, *self.depths))


def compare_systems(runs: Sequence[Run]) -> SideBySide | None:
    """Return the panels of the example that most of the runs have, in the order of the runs.

    runs: one for each variant of a dataset. None where fewer than two share an example.
    """
    shared = Counter(_name(run, scene) for run in runs for scene in run.scenes)
    frame, count = shared.most_common(1)[0] if shared else ("", 0)
    if count < 2:
        return None
    shown = [(run, scene) for run in runs if (scene := _scene_of(run, frame)) is not None]
    images: list[Panel] = []
    depths: list[Panel] = []
    bar = None
    for run, scene in shown:
        pictures = read_pictures(run, scene)
        scale = Scale.of_depth(pictures.depth_gt[pictures.depth_gt > 0], BOTH)
        if not images and run.blurred and pictures.all_in_focus is not None:
            if pictures.sharp is not None:
                truth = photograph(pictures.sharp, SIDE_PX, QUALITY)
                images.append(Panel("all in focus", "the truth", truth))
            defocused = photograph(pictures.defocused, SIDE_PX, QUALITY)
            images.append(Panel("defocused", _score(scene.input_psnr, 2, "dB"), defocused))
        if run.blurred and pictures.all_in_focus is not None:
            image = photograph(pictures.all_in_focus, SIDE_PX, QUALITY)
            images.append(Panel(run.variant, _score(scene.psnr, 2, "dB"), image))
        # a deconvolution does not change the depth that it reads
        if pictures.depth_pred is not None and not (run.control or run.restoration):
            if not depths:
                truth = scale.draw(pictures.known_depth, SIDE_PX, QUALITY)
                depths.append(Panel("true depth", "", truth))
                bar = scale.bar
            depth = scale.draw(pictures.depth_pred, SIDE_PX, QUALITY)
            depths.append(Panel(run.variant, _score(scene.rmse_m, 3, "m"), depth))
    # one system beside the truth compares nothing
    systems = [panel for panel in images if panel.title in {run.variant for run, _ in shown}]
    images = images if len(systems) > 1 else []
    depths = depths if len(depths) > 2 else []
    if not (images or depths):
        return None
    return SideBySide(frame, images, depths, bar)


def _name(run: Run, scene: Scene) -> str:
    """Return the name of the example's frame, without the focus distance of a rendering."""
    rows = run.rows["depth"]
    if "source_frame" not in rows:
        return scene.frame
    return str(rows.loc[rows["frame"] == scene.frame, "source_frame"].iloc[0])


def _scene_of(run: Run, frame: str) -> Scene | None:
    return next((scene for scene in run.scenes if _name(run, scene) == frame), None)


def _score(value: float | None, digits: int, unit: str) -> str:
    return "" if value is None else f"{number(value, digits)} {unit}"
