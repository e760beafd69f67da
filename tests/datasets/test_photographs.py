"""A folder of photographs that a camera defocused: its layouts, its truths, its registration."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

from hded.common.errors import HDEDError
from hded.datasets import RawFrames
from hded.datasets.folder import list_files, open_folder

SIZE = (96, 128)


@cache
def sharp(i: int) -> np.ndarray:
    rng = np.random.default_rng(i)
    image = sum(gaussian_filter(rng.standard_normal((*SIZE, 3)), (s, s, 0)) * s for s in (1, 3, 9))
    image = (image - image.min()) / (image.max() - image.min())  # pyright: ignore
    return np.rint(40 + 170 * image).astype(np.uint8)


@cache
def photograph(i: int, moved_px: tuple[float, float] = (0, 0)) -> np.ndarray:
    image = gaussian_filter(sharp(i).astype(float), (1.5, 1.5, 0))
    return np.rint(shift(image, (*moved_px, 0), order=3, mode="nearest")).clip(0, 255).astype("u1")


def write(
    folder: Path,
    names: list[str],
    kinds: tuple[str, ...] = ("rgb", "depth", "defocused"),
    moved_px: tuple[float, float] = (0, 0),
) -> Path:
    """Pictures of the kinds, the defocused ones moved."""
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
        for name in names:
            i = int(name[-2:])
            depth = np.full(SIZE, 1000 * (i + 1), np.uint16)
            array = {"rgb": sharp(i), "depth": depth, "defocused": photograph(i, moved_px)}[kind]
            Image.fromarray(array).save(folder / kind / f"{name}.png")
    return folder


NAMES = [f"a{i:02d}" for i in range(6)]


def own(folder: Path, max_residual: float | None = None) -> RawFrames:
    return open_folder(folder, depth_unit_m=0.001, max_depth_m=20, max_residual=max_residual)


def test_photographs_take_the_place_of_renderings(tmp_path: Path) -> None:
    raw = own(write(tmp_path / "own", NAMES))
    assert raw.has_photographs and raw.truths == ("depth", "all_in_focus")
    for i, frame in enumerate(raw):
        np.testing.assert_array_equal(frame["defocused"], photograph(i))
        np.testing.assert_array_equal(frame["rgb"], sharp(i))
        assert (frame["depth"] == i + 1).all()
    assert len(list_files(tmp_path / "own")) == 18


@pytest.mark.parametrize(("missing", "truths"), [("rgb", ("depth",)), ("depth", ("all_in_focus",))])
def test_one_truth_may_be_missing(tmp_path: Path, missing: str, truths: tuple[str, ...]) -> None:
    kinds = tuple(kind for kind in ("rgb", "depth", "defocused") if kind != missing)
    raw = own(write(tmp_path / "own", NAMES, kinds))
    assert raw.truths == truths
    frame = raw.read(2)
    stand_in = photograph(2) if missing == "rgb" else sharp(2)
    np.testing.assert_array_equal(frame["rgb"], stand_in)
    assert (frame["depth"] == (0 if missing == "depth" else 3)).all()


def test_folders_are_the_split(tmp_path: Path) -> None:
    write(tmp_path / "own" / "train", NAMES[:4])
    write(tmp_path / "own" / "test", NAMES[4:])
    raw = own(tmp_path / "own")
    assert raw.frames["frame"].tolist() == NAMES
    assert raw.frames["split"].tolist() == ["train"] * 4 + ["test"] * 2
    np.testing.assert_array_equal(raw.read(5)["defocused"], photograph(5))
    assert len(list_files(tmp_path / "own")) == 18


def test_photographs_may_be_there_for_a_test_alone(tmp_path: Path) -> None:
    write(tmp_path / "own" / "test", NAMES)
    assert set(own(tmp_path / "own").frames["split"]) == {"test"}


def test_a_table_pairs_files_of_other_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", NAMES)
    for i, name in enumerate(NAMES):
        (folder / "rgb" / f"{name}.png").rename(folder / "rgb" / f"f8_{5 - i}.png")
    with pytest.raises(HDEDError, match=r"pairs\.csv"):
        own(folder)
    lines = [f"{name}.png,f8_{5 - i}.png,{name}" for i, name in enumerate(NAMES)]
    (folder / "pairs.csv").write_text("\n".join(["defocused,rgb,depth", *lines]))
    raw = own(folder)
    assert raw.frames["frame"].tolist() == NAMES
    np.testing.assert_array_equal(raw.read(1)["rgb"], sharp(1))
    np.testing.assert_array_equal(raw.read(1)["defocused"], photograph(1))
    assert not any("pairs.csv" in note for note in raw.notes)
    (folder / "pairs.csv").write_text("\n".join(["defocused,rgb,depth", *lines[:-1]]))
    notes = own(folder).notes
    assert {notes[f"in {kind}/, but not in pairs.csv"] for kind in ("rgb", "defocused")} == {1}


def test_the_truth_is_registered_and_the_photograph_is_not(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", NAMES, moved_px=(1.4, -2.3))
    raw = own(folder, max_residual=0.05)
    assert raw.size == (SIZE[0] - 6, SIZE[1] - 6)  # without the border that the shift leaves
    assert raw.image_width_px == SIZE[1]  # the pixels are as large as before
    np.testing.assert_allclose(raw.frames["shift_down_px"], 1.4, atol=0.1)
    np.testing.assert_allclose(raw.frames["shift_right_px"], -2.3, atol=0.1)
    plain = own(folder)
    for i in range(len(NAMES)):
        frame = raw.read(i)
        inside = photograph(i, (1.4, -2.3))[3:-3, 3:-3]
        np.testing.assert_array_equal(frame["defocused"], inside)
        errors = [
            np.abs(gaussian_filter(image.astype(float), (1.5, 1.5, 0)) - inside).mean()
            for image in (frame["rgb"], plain.read(i)["rgb"][3:-3, 3:-3])
        ]
        assert errors[0] < 0.5 * errors[1]


def test_a_pair_that_cannot_be_registered_is_left_out_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", NAMES, moved_px=(1, 0))
    Image.fromarray(photograph(40)).save(folder / "defocused" / "a03.png")  # of another scene
    raw = own(folder, max_residual=0.05)
    assert "a03" not in raw.frames["frame"].tolist() and len(raw.frames) == 5
    (line,) = raw.skipped
    assert line.startswith("a03: not registered, residual ") and "above 0.05" in line
    np.testing.assert_array_equal(raw.read(3)["depth"].max(), 5)  # a04's
    with pytest.raises(HDEDError, match="no pair can be registered"):
        own(folder, max_residual=1e-4)


def damage(folder: Path, how: str) -> None:
    picture = folder / "defocused" / "a02.png"
    if how == "alone":
        for kind in ("rgb", "depth"):
            (folder / kind).rename(folder / f"{kind}_")
    elif how == "one missing":
        picture.unlink()
    elif how == "portrait":
        Image.fromarray(photograph(2).transpose(1, 0, 2)).save(picture)
        Image.fromarray(sharp(2).transpose(1, 0, 2)).save(folder / "rgb" / "a02.png")
    elif how == "smaller truth":
        Image.fromarray(sharp(2)[::2, ::2]).save(folder / "rgb" / "a02.png")
    elif how == "depth":
        Image.fromarray(np.full((48, 64), 1000, np.uint16)).save(folder / "depth" / "a02.png")
    elif how == "two splits":
        (folder / "train").mkdir()
    elif how.startswith("astray"):
        write(folder / "train", NAMES[:3])
        write(folder / "test", NAMES[3:])
        for kind in ("rgb", "depth", "defocused"):
            shutil.rmtree(folder / kind)
        name = how.removeprefix("astray ")
        (folder / name).write_text("defocused,rgb,depth\n")
    elif how == "columns":
        (folder / "pairs.csv").write_text("left,right\na00,a00\n")
    elif how == "unknown":
        (folder / "pairs.csv").write_text("defocused,rgb,depth\na00,a77,a00\n")
    elif how == "twice":
        (folder / "pairs.csv").write_text("defocused,rgb,depth\na00,a00,a00\na00,a01,a01\n")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("alone", "has defocused/ alone; it needs rgb/ or depth/"),
        ("one missing", "a02 is not in all of rgb/ and depth/ and defocused/"),
        (
            "portrait",
            "defocused/a02.png, rgb/a02.png are not 96x128 as the others",
        ),
        ("smaller truth", "rgb/a02.png is not 96x128"),
        ("depth", "a02.png: 48x64, its image 96x128"),
        ("two splits", "keep one kind of split"),
        ("astray pairs.csv", "pairs.csv lies beside train, test; give each of them one"),
        ("astray train/lenses.csv", "train/lenses.csv: would not be read; move its lines to"),
        ("columns", "pairs.csv: has the columns left, right; give rgb, depth, defocused"),
        ("unknown", "'a77' is not in rgb/"),
        ("twice", "a00 is listed twice"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, how: str, words: str) -> None:
    folder = write(tmp_path / "own", NAMES)
    damage(folder, how)
    with pytest.raises(HDEDError) as caught:
        list(own(folder))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_name_in_both_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "own" / "train", NAMES[:3])
    write(tmp_path / "own" / "test", NAMES[2:])
    with pytest.raises(HDEDError, match="a02 is in train/ and in test/"):
        own(tmp_path / "own")
