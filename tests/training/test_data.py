"""Training samples: where they are cut, what they depend on, and which frames validate."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.stores import write_stores

from hded.blur.render import list_renderings, render_defocused
from hded.common.errors import HDEDError
from hded.network.normalize import to_network_range, to_uint8
from hded.optics import CAMERAS, Camera
from hded.store import open_store, write_store
from hded.training.data import Batch, Frames, validation_split

SIZE_PX = 32


def crops(stores, indices=None, size_px: int = SIZE_PX) -> Frames:
    indices = stores.scenes.indices("train") if indices is None else np.asarray(indices)
    return Frames(stores.scenes, stores.defocused, indices, "crop", size_px)


def epoch_of(frames: Frames, batch_size: int = 1, **options) -> list[Batch]:
    return list(frames.batches(batch_size, **{"seed": 0, "epoch": 1, "hflip": 0.5, **options}))


def as_bytes(batch: Batch) -> tuple[bytes, ...]:
    return tuple(t.numpy().tobytes() for t in (batch.defocused, batch.sharp, batch.depth_m))


def located(batch: Batch, stores) -> tuple[int, int, int, bool]:
    """Find a sample of one by its depth: frame, top, left, whether it is mirrored."""
    depth = batch.depth_m[0, 0].numpy()
    side = len(depth)
    for mirrored in (False, True):
        wanted = depth[:, ::-1] if mirrored else depth
        windows = np.lib.stride_tricks.sliding_window_view(stores.depth, (side, side), (1, 2))
        candidates = np.argwhere(windows[..., 0, 0] == wanted[0, 0])
        for frame, top, left in candidates:
            if np.array_equal(windows[frame, top, left], wanted):
                return int(frame), int(top), int(left), mirrored
    raise AssertionError("this crop is not in the data")


def test_a_crop_is_one_place_of_one_frame_in_all_three(stores):
    seen = set()
    for epoch in range(1, 5):
        for batch in epoch_of(crops(stores), epoch=epoch):
            frame, top, left, mirrored = located(batch, stores)
            window = (frame, slice(top, top + SIZE_PX), slice(left, left + SIZE_PX))
            step = -1 if mirrored else 1
            for tensor, array in (
                (batch.sharp, stores.rgb),
                (batch.defocused, stores.defocused_rgb),
            ):
                expected = array[window][:, ::step].transpose(2, 0, 1) / 127.5 - 1
                np.testing.assert_allclose(tensor[0].numpy(), expected, rtol=0, atol=1e-6)
            depth = stores.depth[window][:, ::step]
            np.testing.assert_array_equal(batch.depth_m[0, 0].numpy(), depth)
            np.testing.assert_array_equal(batch.valid[0, 0].numpy(), depth > 0)
            seen.add((frame, top, left, mirrored))
    assert {frame for frame, *_ in seen} == set(range(8))
    assert len({(top, left) for _, top, left, _ in seen}) > 20
    assert {mirrored for *_, mirrored in seen} == {False, True}


def test_crops_reach_every_border(stores):
    frames = crops(stores)
    places = [
        located(batch, stores)[1:3]
        for epoch in range(1, 16)
        for batch in epoch_of(frames, epoch=epoch)
    ]
    tops, lefts = zip(*places, strict=True)
    assert (min(tops), max(tops)) == (0, 40 - SIZE_PX)
    assert (min(lefts), max(lefts)) == (0, 56 - SIZE_PX)


@pytest.mark.parametrize(("hflip", "expected"), [(0.0, {False}), (1.0, {True})])
def test_the_flip_has_its_probability(stores, hflip, expected):
    assert {located(b, stores)[3] for b in epoch_of(crops(stores), hflip=hflip)} == expected


def test_an_epoch_sees_every_frame_once_in_an_order_of_its_own(stores):
    orders = []
    for epoch in (1, 2, 3):
        order = [located(b, stores)[0] for b in epoch_of(crops(stores), epoch=epoch)]
        assert sorted(order) == list(range(8))
        orders.append(tuple(order))
    assert len(set(orders)) == 3


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
def test_batches_hold_the_samples_in_turn_the_last_what_is_left(stores, batch_size):
    alone = epoch_of(crops(stores))
    batches = epoch_of(crops(stores), batch_size)
    sizes = [len(batch.sharp) for batch in batches]
    assert sum(sizes) == 8 and all(size == batch_size for size in sizes[:-1])
    for name in ("defocused", "sharp", "depth_m", "valid"):
        together = torch.cat([getattr(batch, name) for batch in batches])
        assert torch.equal(together, torch.cat([getattr(batch, name) for batch in alone]))


def test_a_sample_depends_on_seed_epoch_and_frame_alone(stores):
    samples = {located(b, stores)[0]: as_bytes(b) for b in epoch_of(crops(stores))}
    # another order, other company
    for indices in ([7, 2, 5], [2]):
        for batch in epoch_of(crops(stores, indices)):
            assert as_bytes(batch) == samples[located(batch, stores)[0]]
    # not the first epoch that is drawn from
    frames = crops(stores)
    epoch_of(frames, epoch=5)
    again = {located(b, stores)[0]: as_bytes(b) for b in epoch_of(frames)}
    assert again == samples
    for other in ({"epoch": 2}, {"seed": 1}):
        changed = {located(b, stores)[0]: as_bytes(b) for b in epoch_of(frames, **other)}
        assert sum(changed[i] != samples[i] for i in samples) >= 7


def test_drawing_samples_leaves_numpys_and_torchs_own_generators_alone(stores):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    epoch_of(crops(stores))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_whole_frame_is_uncut_and_unflipped(stores):
    batch, defocused, sharp = list(crops(stores, [3, 6]).wholes())[1]
    assert batch.sharp.shape == (1, 3, 40, 56) and batch.depth_m.shape == (1, 1, 40, 56)
    np.testing.assert_array_equal(to_uint8(batch.sharp)[0], stores.rgb[6])
    np.testing.assert_array_equal(to_uint8(batch.defocused)[0], stores.defocused_rgb[6])
    np.testing.assert_array_equal(batch.depth_m[0, 0].numpy(), stores.depth[6])
    np.testing.assert_array_equal(defocused, stores.defocused_rgb[6])
    np.testing.assert_array_equal(sharp, stores.rgb[6])


def test_resize_squashes_the_whole_frame_images_antialiased_depth_by_nearest(stores):
    frames = Frames(stores.scenes, stores.defocused, np.array([2]), "resize", 32)
    (batch,) = epoch_of(frames, hflip=0.0)
    rows = [int((i + 0.5) * 40 / 32) for i in range(32)]
    columns = [int((i + 0.5) * 56 / 32) for i in range(32)]
    nearest = stores.depth[2][rows][:, columns]
    np.testing.assert_array_equal(batch.depth_m[0, 0].numpy(), nearest)
    for tensor, image in ((batch.sharp, stores.rgb[2]), (batch.defocused, stores.defocused_rgb[2])):
        squashed = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(to_uint8(tensor)[0], np.asarray(squashed))
    (mirrored,) = epoch_of(frames, hflip=1.0)
    for name in ("sharp", "defocused", "depth_m", "valid"):
        assert torch.equal(getattr(mirrored, name), getattr(batch, name).flip(-1))
    assert torch.equal(next(frames.wholes())[0].sharp, batch.sharp)


def test_resize_may_enlarge(stores):
    (batch,) = epoch_of(Frames(stores.scenes, stores.defocused, np.array([0]), "resize", 64))
    assert batch.sharp.shape == (1, 3, 64, 64) and batch.valid.shape == (1, 1, 64, 64)


def test_a_crop_as_large_as_the_shorter_side_fits_and_a_larger_is_refused(stores):
    assert epoch_of(crops(stores, [0], 40))[0].sharp.shape == (1, 3, 40, 40)
    with pytest.raises(HDEDError, match=r"size_px.*40x56"):
        crops(stores, [0], 41)


def test_a_batch_moves_as_a_whole(stores):
    moved = next(crops(stores, [0]).wholes())[0].to(torch.device("meta"))
    for name in ("defocused", "sharp", "depth_m", "valid"):
        assert getattr(moved, name).device.type == "meta"


def test_every_byte_survives_the_way_to_the_network_and_back():
    rgb = np.arange(256, dtype=np.uint8).reshape(8, 32)[..., None].repeat(3, -1)
    rgb[..., 1] = rgb[::-1, ::-1, 1]
    unit = to_network_range(rgb)
    assert unit.shape == (3, 8, 32) and unit.dtype == torch.float32
    assert unit.min() == -1 and unit.max() == 1
    np.testing.assert_array_equal(to_uint8(unit), rgb)
    flipped = rgb[None, ::-1, ::2]
    np.testing.assert_array_equal(to_uint8(to_network_range(flipped)), flipped)


def test_an_image_out_of_range_is_clipped_and_rounded():
    values = torch.tensor([-9.0, -1.0, 0.0, 0.4 / 127.5, 0.6 / 127.5, 1.0, 1.001, 9.0])
    image = values.expand(3, 1, -1)
    assert to_uint8(image)[0, :, 0].tolist() == [0, 0, 128, 128, 128, 255, 255, 255]


# --- validation ----------------------------------------------------------------------------------


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
    assert not {scene_of[i] for i in fitted} & {scene_of[i] for i in held}
    again = validation_split(frames, everything, share, seed)
    assert np.array_equal(fitted, again[0]) and np.array_equal(held, again[1])
    # as much as asked for, and no scene more than that takes
    wanted = max(1, round(share * len(names)))
    scenes_held = {scene_of[i] for i in held}
    assert len(held) >= wanted or len(scenes_held) == len(sizes) - 1
    assert min(len(held) - sizes[s] for s in scenes_held) < wanted


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


def test_a_share_of_zero_holds_nothing_out():
    fitted, held = validation_split(table(None, ids(range(5))), np.arange(5), 0.0, 0)
    assert fitted.tolist() == [0, 1, 2, 3, 4] and len(held) == 0


def test_a_tiny_share_still_holds_one_frame_out():
    frames = table(None, ids(*(range(10 * k, 10 * k + 1) for k in range(5))))
    assert len(validation_split(frames, np.arange(5), 0.001, 0)[1]) == 1


def test_one_frame_cannot_be_split():
    with pytest.raises(HDEDError, match="val_fraction"):
        validation_split(table(None, ["0001"]), np.arange(1), 0.1, 0)


# ---- several copies, and blurring on the fly ----

SIZE = (60, 72)


def cameras(*focus_m: float) -> list[Camera]:
    return [
        Camera(
            name="x", focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=f, max_coc_px=12.0
        )
        for f in focus_m
    ]


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> SimpleNamespace:
    """Four frames taken at 1, 2 and 5 m, as the stage `defocus` stores them."""
    folder, chosen = tmp_path_factory.mktemp("copied"), cameras(1.0, 2.0, 5.0)
    tiny = write_stores(folder / "tiny", splits=["train"] * 4, size=SIZE)
    table = list_renderings(tiny.scenes.frames, chosen)
    records = []
    for row in table.itertuples():
        depth = tiny.depth[row.frame_index]
        lens = chosen[row.camera_index].lens(depth, SIZE[1], np.random.default_rng(0))
        image, coc = render_defocused(tiny.rgb[row.frame_index], depth, lens, "gather")
        records.append({"defocused": image, "coc": coc.astype(np.float16)})
    arrays = {"defocused": ((*SIZE, 3), np.uint8), "coc": (SIZE, np.float16)}
    write_store(folder / "taken", table, arrays, records, {"camera": {}})
    return SimpleNamespace(
        scenes=tiny.scenes, defocused=open_store(folder / "taken"), cameras=chosen
    )


def drawn(copied: SimpleNamespace, epochs: int = 6, **options) -> list[Batch]:
    frames = Frames(copied.scenes, copied.defocused, np.arange(4), "crop", 32, **options)
    device = torch.device("cpu")
    return [
        batch.to(device)
        for epoch in range(1, epochs + 1)
        for batch in frames.batches(2, seed=0, epoch=epoch, hflip=0.5)
    ]


def test_a_sample_draws_one_of_its_frames_copies(copied):
    frames = Frames(copied.scenes, copied.defocused, np.array([1]), "crop", 60)
    stored = [copied.defocused.read("defocused", row) for row in (3, 4, 5)]
    seen = set()
    for epoch in range(1, 30):
        (batch,) = frames.batches(1, seed=0, epoch=epoch, hflip=0.0)
        image = to_uint8(batch.defocused)[0]
        found = [
            i
            for i, copy in enumerate(stored)
            if any((copy[:, left : left + 60] == image).all() for left in range(13))
        ]
        seen.add(tuple(found))
    assert seen == {(0,), (1,), (2,)}
    assert len(list(frames.wholes())) == 3


def test_blurred_on_the_fly_a_sample_is_the_stored_one_byte_for_byte(copied):
    """Crop edges too: what surrounds the crop takes part in its blur, also beyond the frame."""
    for stored, fresh in zip(drawn(copied), drawn(copied, cameras=copied.cameras), strict=True):
        for name in ("defocused", "sharp", "depth_m", "valid"):
            assert torch.equal(getattr(stored, name), getattr(fresh, name)), name


def test_squashed_frames_are_blurred_before_they_are_squashed(copied):
    options = (copied.scenes, copied.defocused, np.arange(4), "resize", 32)
    stored, fresh = Frames(*options), Frames(*options, cameras=copied.cameras)
    for epoch in (1, 2, 3):
        pairs = zip(
            stored.batches(4, seed=1, epoch=epoch, hflip=0.5),
            fresh.batches(4, seed=1, epoch=epoch, hflip=0.5),
            strict=True,
        )
        for one, other in pairs:
            for name in ("defocused", "sharp", "depth_m", "valid"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_camera_that_draws_its_lens_takes_each_sample_anew(copied):
    batches = drawn(copied, epochs=2, cameras=[CAMERAS["syndof"]])
    again = drawn(copied, epochs=2, cameras=[CAMERAS["syndof"]])
    blurred = torch.cat([b.defocused for b in batches])
    assert torch.equal(blurred, torch.cat([b.defocused for b in again]))
    difference = (blurred - torch.cat([b.sharp for b in batches])).abs().mean((1, 2, 3))
    assert len(set(difference.tolist())) == len(difference)


def test_frames_that_are_blurred_on_the_fly_read_no_stored_copy(copied, monkeypatch):
    def refuse(name: str, index: int) -> None:
        raise AssertionError(name)

    blind = SimpleNamespace(frames=copied.defocused.frames, read=refuse)
    assert drawn(SimpleNamespace(scenes=copied.scenes, defocused=blind), cameras=copied.cameras)
