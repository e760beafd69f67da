"""Examples as images inside the page, as large as the page's size allows.

True and estimated depth share one colour scale in metres; the errors of the two images share
another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.common.heads import ALL_IN_FOCUS, DEPTH
from hded.common.image_io import open_image
from hded.common.progress import progress
from hded.evaluation.png16 import decode_coc, decode_depth
from hded.report.page.colour import Bar, Inlined, Scale, photograph
from hded.report.read.files import REPAIR
from hded.report.read.runs import Run, Scene

# longest side [px] of images and of maps (shown half as wide), JPEG quality: the largest that fits
# is used
SIZES = (
    (640, 360, 90), (560, 340, 88), (480, 300, 85), (400, 260, 82), (320, 220, 80), (240, 170, 76),
    (160, 120, 72),
)  # fmt: skip
BOTH, ALONE = 5, 2  # intervals of a colour bar under two maps, and under one
ROLES = ("best", "median", "worst", "fixed")


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The images of one example; outputs that its network lacks and an unknown truth are None.

    Images (H, W, 3) uint8; depth (H, W) [m], 0 where invalid; CoC (H, W) [px].
    """

    sharp: NDArray[np.uint8] | None
    defocused: NDArray[np.uint8]
    all_in_focus: NDArray[np.uint8] | None
    depth_gt: NDArray[np.float64]
    depth_pred: NDArray[np.float64] | None
    coc_px: NDArray[np.float64]

    def image_error(self, image: NDArray[np.uint8] | None) -> NDArray[np.float64] | None:
        """Return the difference from the sharp image in 8-bit levels, the mean over channels.

        None where one of the two is missing.
        """
        if image is None or self.sharp is None:
            return None
        return np.abs(image.astype(np.float64) - self.sharp).mean(2)

    def depth_error(self, depth_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the absolute depth error [m], NaN where the ground truth is unknown."""
        return np.where(self.depth_gt > 0, np.abs(depth_m - self.depth_gt), np.nan)

    @property
    def known_depth(self) -> NDArray[np.float64]:
        """Return the true depth [m], NaN where invalid."""
        return np.where(self.depth_gt > 0, self.depth_gt, np.nan)


@dataclass(frozen=True, slots=True)
class SceneView:
    """One example as the page shows it.

    Outputs that its network lacks are None, and so are errors against an unknown truth.
    """

    scene: Scene
    side_px: int
    sharp: Inlined | None
    defocused: Inlined
    all_in_focus: Inlined | None
    depth_gt: Inlined
    depth_pred: Inlined | None
    depth_bar: Bar
    depth_log: bool
    depth_error: Inlined | None
    depth_error_bar: Bar | None
    defocused_error: Inlined | None
    all_in_focus_error: Inlined | None
    image_error_bar: Bar | None
    coc: Inlined
    coc_bar: Bar

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return the names of the images that are worth comparing two by two, the first first."""
        names = ("defocused", "all_in_focus", "sharp")
        known = [name for name in names if getattr(self, name) is not None]
        return sorted(combinations(known, 2), key=lambda pair: pair == ("defocused", "sharp"))

    @property
    def characters(self) -> int:
        """Return the total length of all data URIs."""
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return sum(len(v.uri) for v in values if isinstance(v, Inlined))


@dataclass(frozen=True, slots=True)
class Gallery:
    """The examples of each run, and how many were left out to keep the page small."""

    views: dict[str, list[SceneView]]  # by Run.name
    left_out: int


def build_gallery(runs: Sequence[Run], main: frozenset[str], budget: int) -> Gallery:
    """Inline the examples of `runs` (the most important first) within `budget` characters.

    main: names of the runs shown with all their examples; the others show best, median and worst.
    Images are made smaller first, down to a thumbnail; then runs at the end are left out.
    """
    every = [(run, scene) for run in runs for scene in _ordered(run.scenes)]
    chosen = [(r, s) for r, s in every if r.name in main or s.role != "fixed"]
    views: list[SceneView] = []
    for size in SIZES:
        if views and _characters(views) * (size[0] / views[0].side_px) ** 1.4 > budget:
            continue  # this size would not fit either
        views = _encode(chosen, size)
        if _characters(views) <= budget:
            break
    else:
        views = _encode(chosen, SIZES[-1])
    while len({run.name for run, _ in chosen}) > 1 and _characters(views) > budget:
        last = chosen[-1][0].name
        kept = sum(run.name != last for run, _ in chosen)
        chosen, views = chosen[:kept], views[:kept]
    grouped: dict[str, list[SceneView]] = {}
    for (run, _), view in zip(chosen, views, strict=True):
        grouped.setdefault(run.name, []).append(view)
    return Gallery(grouped, len(every) - len(chosen))


def _encode(scenes: Sequence[tuple[Run, Scene]], size: tuple[int, int, int]) -> list[SceneView]:
    bar = progress(scenes, desc=f"examples at {size[0]} px", unit="example", leave=False)
    return [view_scene(run, scene, *size) for run, scene in bar]


def _characters(views: Iterable[SceneView]) -> int:
    return sum(view.characters for view in views)


def _ordered(scenes: Sequence[Scene]) -> list[Scene]:
    return sorted(scenes, key=lambda s: ROLES.index(s.role) if s.role in ROLES else len(ROLES))


def read_pictures(run: Run, scene: Scene) -> Pictures:
    """Read one example's images.

    Raises HDEDError for a file that is missing, not an image, or of another size than the others.
    """
    folder = scene.folder
    has_depth, has_image = DEPTH in run.outputs, ALL_IN_FOCUS in run.outputs
    known = ALL_IN_FOCUS in run.truths
    pictures = Pictures(
        sharp=_rgb(folder / "all_in_focus_gt.png") if known else None,
        defocused=_rgb(folder / "input.png"),
        all_in_focus=_rgb(folder / "all_in_focus.png") if has_image else None,
        depth_gt=decode_depth(_read(folder / "depth_gt.png")),
        depth_pred=decode_depth(_read(folder / "depth_pred.png")) if has_depth else None,
        coc_px=decode_coc(_read(folder / "coc.png")),
    )
    for name in pictures.__dataclass_fields__:
        array = getattr(pictures, name)
        if array is not None and array.shape[:2] != pictures.defocused.shape[:2]:
            raise HDEDError(f"{folder}: its images differ in size; {REPAIR}")
    return pictures


def view_scene(run: Run, scene: Scene, side_px: int, map_px: int, quality: int) -> SceneView:
    """Read one example's images and inline them; raises HDEDError as `read_pictures` does.

    The longest side of images is at most `side_px`, of maps `map_px`.
    """
    p = read_pictures(run, scene)

    def photo(rgb: NDArray[np.uint8]) -> Inlined:
        return photograph(rgb, side_px, quality)

    def draw(scale: Scale, values: NDArray) -> Inlined:
        return scale.draw(values, map_px, quality)

    has_depth = p.depth_pred is not None
    depths = Scale.of_depth(p.depth_gt[p.depth_gt > 0], BOTH if has_depth else ALONE)
    depth_map, depth_error_bar = None, None
    if p.depth_pred is not None:
        error = p.depth_error(p.depth_pred)
        depth_errors = Scale.from_zero(error, "m", "magma", ALONE)
        depth_map, depth_error_bar = draw(depth_errors, error), depth_errors.bar
    errors = [p.image_error(image) for image in (p.defocused, p.all_in_focus)]
    shown = [error for error in errors if error is not None]
    image_error_maps, image_error_bar = [None, None], None
    if shown:
        scale = Scale.from_zero(np.stack(shown), "", "magma", BOTH if len(shown) > 1 else ALONE)
        image_error_maps = [None if error is None else draw(scale, error) for error in errors]
        image_error_bar = scale.bar
    blur = Scale.from_zero(np.abs(p.coc_px), "px", "cividis", ALONE)
    return SceneView(
        scene=scene,
        side_px=side_px,
        sharp=None if p.sharp is None else photo(p.sharp),
        defocused=photo(p.defocused),
        all_in_focus=None if p.all_in_focus is None else photo(p.all_in_focus),
        depth_gt=draw(depths, p.known_depth),
        depth_pred=None if p.depth_pred is None else draw(depths, p.depth_pred),
        depth_bar=depths.bar,
        depth_log=depths.log,
        depth_error=depth_map,
        depth_error_bar=depth_error_bar,
        defocused_error=image_error_maps[0],
        all_in_focus_error=image_error_maps[1],
        image_error_bar=image_error_bar,
        coc=draw(blur, np.abs(p.coc_px)),
        coc_bar=blur.bar,
    )


def _rgb(path: Path) -> NDArray[np.uint8]:
    return _read(path, "RGB")


def _read(path: Path, mode: str | None = None) -> NDArray:
    try:
        image = open_image(path)
        return np.asarray(image.convert(mode) if mode else image)
    except HDEDError as error:
        raise HDEDError(f"{error}; {REPAIR}") from error
