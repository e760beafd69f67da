"""Which training frames are held out, and how whole frames are validated."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hded.common.errors import HDEDError
from hded.network.normalize import to_uint8
from hded.training.frames import TrainingFrames
from hded.training.validation import validation_split, whole_frames


def test_a_whole_frame_is_uncut_and_unflipped(stores):
    frames = TrainingFrames(stores.scenes, [stores.defocused], np.array([3, 6]), "crop", 32)
    batch, defocused, sharp = list(whole_frames(frames))[1]
    assert batch.sharp.shape == (1, 3, 40, 56) and batch.depth_m.shape == (1, 1, 40, 56)
    np.testing.assert_array_equal(to_uint8(batch.sharp)[0], stores.rgb[6])
    np.testing.assert_array_equal(to_uint8(batch.defocused)[0], stores.defocused_rgb[6])
    np.testing.assert_array_equal(batch.depth_m[0, 0].numpy(), stores.depth[6])
    np.testing.assert_array_equal(defocused, stores.defocused_rgb[6])
    np.testing.assert_array_equal(sharp, stores.rgb[6])


def table(scenes: list[str] | None, names: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"frame": names, "split": "train", "scene": scenes or [""] * len(names)})


def ids(*runs: range) -> list[str]:
    return [f"{i:04d}" for run in runs for i in run]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=30),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 1000),
    named=st.booleans(),
)
def test_whole_scenes_are_held_out_never_all_and_at_least_one_frame(sizes, share, seed, named):
    """RawFrames are named, or are runs of consecutive ids; test frames stand between."""
    scene_of, names, start = [], [], 1
    for scene, size in enumerate(sizes):
        names += ids(range(start, start + size))
        scene_of += [scene] * size
        start += size + 1 + scene % 3
    scenes = [f"room_{(7 * s) % 101}" for s in scene_of] if named else None
    frames = table(scenes, names)
    everything = np.arange(len(names))
    fitted, held = validation_split(frames, everything, share, seed)
    assert sorted([*fitted, *held]) == everything.tolist()
    assert len(fitted) and len(held)
    again = validation_split(frames, everything, share, seed)
    assert np.array_equal(fitted, again[0]) and np.array_equal(held, again[1])
    # as much as asked for or a little more, and whole scenes unless each is too large
    wanted = max(1, round(share * len(names)))
    most = max(2 * wanted, len(names) // 4)
    scenes_held = {scene_of[i] for i in held}
    assert len(held) <= most
    if min(sizes) > most:
        assert len(scenes_held) == 1 and len(held) == wanted
        assert held.tolist() == list(range(held[0], held[0] + wanted))
        return
    assert not {scene_of[i] for i in fitted} & scenes_held
    others = [size for scene, size in enumerate(sizes) if scene not in scenes_held]
    assert len(held) >= wanted or len(held) + min(others) > most or len(others) == 1


def test_the_frames_are_told_by_their_place_in_the_store(stores):
    fitted, held = validation_split(stores.scenes.frames, np.array([1, 2, 5, 6]), 0.4, 0)
    assert sorted([*fitted, *held]) == [1, 2, 5, 6]
    assert {tuple(held), tuple(fitted)} == {(1, 2), (5, 6)}  # ids 2-3 and 6-7 are two runs


def test_other_seeds_hold_out_other_scenes():
    frames = table(None, ids(*(range(10 * k, 10 * k + 3) for k in range(30))))
    splits = {tuple(validation_split(frames, np.arange(90), 0.1, seed)[1]) for seed in range(10)}
    assert len(splits) > 7
    assert {len(held) for held in splits} == {9}


def test_names_that_are_no_numbers_are_scenes_of_their_own():
    frames = table(None, ["img-a", "img-b", "op1-p-1", "op1-p-2"])
    fitted, held = validation_split(frames, np.arange(4), 0.25, 0)
    assert len(held) == 1 and len(fitted) == 3


def test_one_scene_alone_is_split_by_frames():
    for frames in (table(["kitchen"] * 20, ids(range(20))), table(None, ids(range(20)))):
        fitted, held = validation_split(frames, np.arange(20), 0.1, 0)
        assert len(held) == 2 and len(fitted) == 18


def test_scenes_much_larger_than_the_share_are_not_held_out_whole():
    sizes = {"hall": 900, "kitchen": 60, "bath": 40}
    scenes = [name for name, size in sizes.items() for _ in range(size)]
    frames = table(scenes, ids(range(1000)))
    for seed in range(10):
        assert 40 <= len(validation_split(frames, np.arange(1000), 0.1, seed)[1]) <= 100
    two = table(["hall"] * 500 + ["kitchen"] * 500, ids(range(1000)))
    held = validation_split(two, np.arange(1000), 0.1, 0)[1]
    assert len(held) == 100 and held[-1] - held[0] == 99


def test_a_share_of_zero_holds_nothing_out():
    fitted, held = validation_split(table(None, ids(range(5))), np.arange(5), 0.0, 0)
    assert fitted.tolist() == [0, 1, 2, 3, 4] and len(held) == 0


def test_a_tiny_share_still_holds_one_frame_out():
    frames = table(None, ids(*(range(10 * k, 10 * k + 1) for k in range(5))))
    assert len(validation_split(frames, np.arange(5), 0.001, 0)[1]) == 1


def test_one_frame_cannot_be_split():
    with pytest.raises(HDEDError, match="val_fraction"):
        validation_split(table(None, ["0001"]), np.arange(1), 0.1, 0)
