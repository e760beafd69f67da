"""The lens of each frame of a user's own folder: read, and used wherever the frame is blurred."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets.test_photographs import NAMES, SIZE, own, write
from support.cameras import PAPER
from support.renderings import records_of

from hded.blur.render import describe_photographs, list_renderings, render_defocused
from hded.common.errors import HDEDError
from hded.datasets.folder import list_files
from hded.optics import describe_cameras, recorded_lens
from hded.store import Store, open_store, write_store
from hded.training.frames import TrainingFrames
from hded.training.samplers import build_sampler

MINE = replace(PAPER, name="mine", photographs=True)
ROWS = [f"{name}.png,{35 + i},{2 + i / 2},{'' if i == 1 else 1.5 + i}\n"
        for i, name in enumerate(NAMES)]  # fmt: skip
TABLE = "frame,focal_length_mm,f_number,focus_distance_m\n" + "".join(reversed(ROWS))


def stored(folder: Path, kinds: tuple[str, ...] = ("rgb", "depth"), table: str = TABLE) -> Store:
    """The folder as the stage `convert` stores it."""
    write(folder / "own", NAMES, kinds)
    (folder / "own/lenses.csv").write_text(table)
    raw = own(folder / "own")
    arrays = {"rgb": ((*SIZE, 3), np.uint8), "depth": (SIZE, np.float32)}
    if "defocused" in kinds:
        arrays["defocused"] = ((*SIZE, 3), np.uint8)
    attributes = {
        "dataset": "own", "size": list(SIZE), "image_width_px": raw.image_width_px,
        "max_depth_m": 20.0, "truths": list(raw.truths), "skipped": [], "format": "folder",
        "source": "folder",
    }  # fmt: skip
    write_store(folder / "store", raw.frames, arrays, raw, attributes)
    return open_store(folder / "store")


def test_each_frame_is_blurred_by_its_own_lens_and_what_is_open_is_the_cameras(
    tmp_path: Path,
) -> None:
    scenes = stored(tmp_path)
    table = list_renderings(scenes.frames, [MINE])
    records = records_of(scenes, table, [MINE])
    for i, record in enumerate(records):
        focus_m = 2.0 if i == 1 else 1.5 + i
        expected = replace(
            PAPER, focal_length_m=(35 + i) / 1000, aperture_m=None, f_number=2 + i / 2,
            focus_distance_m=focus_m,
        )  # fmt: skip
        lens = expected.lens(np.empty(0), SIZE[1], np.random.default_rng())
        assert record["focus_distance_m"] == focus_m
        assert record["focal_length_m"] / record["aperture_m"] == pytest.approx(2 + i / 2)
        image, _ = render_defocused(scenes.read("rgb", i), scenes.read("depth", i), lens, "gather")
        np.testing.assert_array_equal(record["defocused"], image)
    # nothing of a lens is recorded as the camera's where frames have their own
    camera = describe_cameras([MINE], SIZE[1], table.columns)
    assert camera["focal_length_m"] is camera["aperture_m"] is camera["f_number"] is None
    assert recorded_lens(camera, {}) is None
    assert recorded_lens(camera, records[0]) is not None


def test_another_camera_blurs_all_frames_alike(tmp_path: Path) -> None:
    scenes = stored(tmp_path)
    table = list_renderings(scenes.frames, [PAPER])
    records = records_of(scenes, table, [PAPER])
    assert {record["focal_length_m"] for record in records} == {0.07}
    assert describe_cameras([PAPER], SIZE[1], table.columns)["focal_length_m"] == 0.07


def test_photographs_have_the_lens_of_their_frame(tmp_path: Path) -> None:
    scenes = stored(tmp_path, ("rgb", "depth", "defocused"))
    table = list_renderings(scenes.frames, [MINE])
    records = records_of(scenes, table, [MINE])
    assert [r["focal_length_m"] for r in records] == pytest.approx(
        [0.035 + i / 1000 for i in range(6)]
    )
    np.testing.assert_array_equal(records[0]["defocused"], scenes.read("defocused", 0))
    assert describe_photographs([MINE], SIZE[1], table.columns)["focus_distance_m"] is None


def test_samples_that_are_rendered_anew_have_it_too(tmp_path: Path) -> None:
    scenes = stored(tmp_path)
    frames = TrainingFrames(scenes, [], np.arange(6), "crop", 32, stored=False)
    seen = set()
    for batch in build_sampler(frames, [[MINE]]).batches(2, seed=0, epoch=1, hflip=0.0):
        assert batch.lenses is not None
        seen |= set(batch.lenses[:, 0, 1].tolist())
    assert seen == set(torch.tensor([1.5, 2.0, 3.5, 4.5, 5.5, 6.5]).tolist())


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "cannot be read as a table"),
        ("frame,aperture\na00,2\n", "has the columns frame, aperture; give frame and one or more"),
        ("frame\na00\n", "give frame and one or more"),
        ("frame,f_number\na00,2\n", "has no row for a01, a02, a03, a04, a05"),
        ("frame,f_number\na00,2\na00.jpg,2\n", "a00 is listed twice"),
        (TABLE.replace("35,2.0", "35,f/2"), "a00: f_number is 'f/2'; give a positive number"),
        (TABLE.replace("35,2.0", "-35,2.0"), "a00: focal_length_mm is '-35'"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(tmp_path: Path, table: str, words: str) -> None:
    with pytest.raises(HDEDError, match=r"own/lenses\.csv") as error:
        stored(tmp_path, table=table)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_lens_focused_inside_its_focal_length_names_the_frame(tmp_path: Path) -> None:
    scenes = stored(tmp_path, table=TABLE.replace("35,2.0,1.5", "2000,2.0,1.5"))
    table = list_renderings(scenes.frames, [MINE])
    with pytest.raises(HDEDError, match="frame a00: lens: focus_distance_m"):
        records_of(scenes, table, [MINE])


def test_the_table_is_among_the_files_that_are_looked_at(tmp_path: Path) -> None:
    write(tmp_path, NAMES, ("rgb", "depth"))
    (tmp_path / "lenses.csv").write_text(TABLE)
    assert tmp_path / "lenses.csv" in list_files(tmp_path)
