"""Training samples: where they are cut, and what they depend on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.cameras import SYNDOF
from support.stores import write_stores

from hded.blur.holes import fill_holes
from hded.blur.render import PHOTOGRAPHS, list_renderings, render_defocused
from hded.common.errors import HDEDError
from hded.common.resize import resize_nearest, resize_rgb
from hded.config.params import load_params
from hded.config.schema import Geometry
from hded.network.normalize import to_network_range, to_uint8
from hded.optics import Camera, Sensor
from hded.store import open_store, write_store
from hded.training.batch import Batch
from hded.training.build import build_fit
from hded.training.frames import TrainingFrames, stored_lenses
from hded.training.samplers import Sampler, build_sampler
from hded.training.validation import whole_frames

ROOT = Path(__file__).resolve().parents[2]
SIZE_PX = 32
CPU = torch.device("cpu")


def crops(stores, indices=None, size_px: int = SIZE_PX) -> Sampler:
    indices = stores.scenes.indices("train") if indices is None else np.asarray(indices)
    return sampler(stores, indices, "crop", size_px)


def sampler(
    stores, indices, geometry: Geometry, size_px: int, cameras=(), reduce=(1.0, 1.0)
) -> Sampler:
    how = (np.asarray(indices), geometry, size_px)
    frames = TrainingFrames(stores.scenes, [stores.defocused], *how, stored=not cameras)
    return build_sampler(frames, [cameras] if cameras else (), reduce)


def epoch_of(samples: Sampler, batch_size: int = 1, **options) -> list[Batch]:
    chosen = {"seed": 0, "epoch": 1, "hflip": 0.5, **options}
    return [batch.to(CPU) for batch in samples.batches(batch_size, **chosen)]


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
    samples = crops(stores)
    places = [
        located(batch, stores)[1:3]
        for epoch in range(1, 16)
        for batch in epoch_of(samples, epoch=epoch)
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
    late = crops(stores)
    epoch_of(late, epoch=5)
    again = {located(b, stores)[0]: as_bytes(b) for b in epoch_of(late)}
    assert again == samples
    for other in ({"epoch": 2}, {"seed": 1}):
        changed = {located(b, stores)[0]: as_bytes(b) for b in epoch_of(late, **other)}
        assert sum(changed[i] != samples[i] for i in samples) >= 7


def test_drawing_samples_leaves_numpys_and_torchs_own_generators_alone(stores):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    epoch_of(crops(stores))
    assert torch.equal(torch.get_rng_state(), state)


def test_resize_squashes_the_whole_frame_images_antialiased_depth_by_nearest(stores):
    samples = sampler(stores, [2], "resize", 32)
    (batch,) = epoch_of(samples, hflip=0.0)
    rows = [int((i + 0.5) * 40 / 32) for i in range(32)]
    columns = [int((i + 0.5) * 56 / 32) for i in range(32)]
    nearest = stores.depth[2][rows][:, columns]
    np.testing.assert_array_equal(batch.depth_m[0, 0].numpy(), nearest)
    for tensor, image in ((batch.sharp, stores.rgb[2]), (batch.defocused, stores.defocused_rgb[2])):
        squashed = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(to_uint8(tensor)[0], np.asarray(squashed))
    (mirrored,) = epoch_of(samples, hflip=1.0)
    for name in ("sharp", "defocused", "depth_m", "valid"):
        assert torch.equal(getattr(mirrored, name), getattr(batch, name).flip(-1))
    assert torch.equal(next(whole_frames(samples.frames))[0].sharp, batch.sharp)


def test_resize_may_enlarge(stores):
    (batch,) = epoch_of(sampler(stores, [0], "resize", 64))
    assert batch.sharp.shape == (1, 3, 64, 64) and batch.valid.shape == (1, 1, 64, 64)


def test_a_crop_as_large_as_the_shorter_side_fits_and_a_larger_is_refused(stores):
    assert epoch_of(crops(stores, [0], 40))[0].sharp.shape == (1, 3, 40, 40)
    with pytest.raises(HDEDError, match=r"size_px.*40x56"):
        crops(stores, [0], 41)


def test_a_batch_moves_as_a_whole(stores):
    moved = next(whole_frames(crops(stores, [0]).frames))[0].to(torch.device("meta"))
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


# ---- several renderings, and rendering on the fly ----

SIZE = (60, 72)


def cameras(*focus_m: float) -> list[Camera]:
    return [
        Camera(
            name="x", focal_length_m=0.07, aperture_m=0.0448, focus_distance_m=f, max_coc_px=12.0
        )
        for f in focus_m
    ]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> SimpleNamespace:
    """Four frames taken at 1, 2 and 5 m, as the stage `defocus` stores them."""
    folder, chosen = tmp_path_factory.mktemp("rendered"), cameras(1.0, 2.0, 5.0)
    tiny = write_stores(folder / "tiny", splits=["train"] * 4, size=SIZE)
    table = list_renderings(tiny.scenes.frames, chosen)
    records = []
    for row in table.to_dict("records"):
        index = row["frame_index"]
        depth = tiny.depth[index]
        lens = chosen[row["camera_index"]].lens(depth, SIZE[1], np.random.default_rng(0))
        image, coc = render_defocused(tiny.rgb[index], depth, lens, "gather")
        records.append({"defocused": image, "coc": coc.astype(np.float16)})
    arrays = {"defocused": ((*SIZE, 3), np.uint8), "coc": (SIZE, np.float16)}
    write_store(folder / "taken", table, arrays, records, {"camera": {}})
    return SimpleNamespace(
        scenes=tiny.scenes, defocused=open_store(folder / "taken"), cameras=chosen
    )


def drawn(rendered: SimpleNamespace, epochs: int = 6, cameras=()) -> list[Batch]:
    samples = sampler(rendered, range(4), "crop", 32, cameras)
    return [
        batch.to(CPU)
        for epoch in range(1, epochs + 1)
        for batch in samples.batches(2, seed=0, epoch=epoch, hflip=0.5)
    ]


def test_a_sample_draws_one_of_its_frames_renderings(rendered):
    samples = sampler(rendered, [1], "crop", 60)
    stored = [rendered.defocused.read("defocused", row) for row in (3, 4, 5)]
    seen = set()
    for epoch in range(1, 30):
        (batch,) = samples.batches(1, seed=0, epoch=epoch, hflip=0.0)
        image = to_uint8(batch.to(CPU).defocused)[0]
        found = [
            i
            for i, image_of in enumerate(stored)
            if any((image_of[:, left : left + 60] == image).all() for left in range(13))
        ]
        seen.add(tuple(found))
    assert seen == {(0,), (1,), (2,)}
    assert len(list(whole_frames(samples.frames))) == 3


def test_rendered_on_the_fly_a_sample_is_the_stored_one_byte_for_byte(rendered):
    """Crop edges too: what surrounds the crop takes part in its blur, also beyond the frame."""
    for stored, fresh in zip(
        drawn(rendered), drawn(rendered, cameras=rendered.cameras), strict=True
    ):
        for name in ("defocused", "sharp", "depth_m", "valid"):
            assert torch.equal(getattr(stored, name), getattr(fresh, name)), name


@pytest.mark.parametrize("hflip", [0.0, 1.0])
def test_a_reduced_frame_is_blurred_at_its_reduced_size(tmp_path: Path, hflip: float):
    """Its images are antialiased as Pillow's are; its lens has the same pixels as ever."""
    stores, size = write_stores(tmp_path, splits=["train"] * 3, size=(70, 90)), (49, 63)
    camera = cameras(2.0)[0]
    samples = sampler(stores, range(3), "crop", 32, [camera], (0.7, 0.7))
    for batch in epoch_of(samples, hflip=hflip):
        (index,) = batch.indices
        rgb, depth_m = (
            resize_rgb(stores.rgb[index], size),
            resize_nearest(stores.depth[index], size),
        )
        lens = camera.lens(stores.depth[index], 90, np.random.default_rng(0))
        filled_m = resize_nearest(fill_holes(stores.depth[index]), size)
        defocused, _ = render_defocused(rgb, filled_m, lens, "gather")
        depth = batch.depth_m[0, 0].numpy()
        wanted = depth[:, ::-1] if hflip else depth
        windows = np.lib.stride_tricks.sliding_window_view(depth_m, (32, 32))
        ((top, left),) = np.argwhere((windows == wanted).all((2, 3)))
        for image, whole in ((batch.sharp, rgb), (batch.defocused, defocused)):
            found = to_uint8(image)[0][:, ::-1] if hflip else to_uint8(image)[0]
            cut = whole[top : top + 32, left : left + 32].astype(int)
            assert np.abs(found - cut).max() <= 1


def test_each_sample_is_reduced_anew_and_never_below_its_crop(rendered):
    samples = sampler(rendered, range(4), "crop", 32, rendered.cameras, (0.1, 1.0))
    sizes = []
    for epoch in range(1, 20):
        draws = [samples._draw(i, 0, epoch, 0.5) for i in range(4)]
        assert draws == [samples._draw(i, 0, epoch, 0.5) for i in range(4)]
        for draw in draws:
            assert draw.size is not None and min(draw.size) >= 32
            assert all(
                0 <= w.start < w.stop <= n for w, n in zip(draw.window, draw.size, strict=True)
            )
            sizes.append(draw.size[1])
    assert min(sizes) < 40 < 60 < max(sizes) and len(set(sizes)) > 15


def test_squashed_frames_are_blurred_before_they_are_squashed(rendered):
    options = (rendered, range(4), "resize", 32)
    stored, fresh = sampler(*options), sampler(*options, cameras=rendered.cameras)
    for epoch in (1, 2, 3):
        pairs = zip(
            stored.batches(4, seed=1, epoch=epoch, hflip=0.5),
            fresh.batches(4, seed=1, epoch=epoch, hflip=0.5),
            strict=True,
        )
        for one, other in pairs:
            for name in ("defocused", "sharp", "depth_m", "valid"):
                assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_a_camera_that_draws_its_lens_takes_each_sample_anew(rendered):
    batches = drawn(rendered, epochs=2, cameras=[SYNDOF])
    again = drawn(rendered, epochs=2, cameras=[SYNDOF])
    blurred = torch.cat([b.defocused for b in batches])
    assert torch.equal(blurred, torch.cat([b.defocused for b in again]))
    difference = (blurred - torch.cat([b.sharp for b in batches])).abs().mean((1, 2, 3))
    assert len(set(difference.tolist())) == len(difference)


def test_cameras_that_draw_their_lenses_draw_alike_for_one_sample(rendered):
    """As their stored renderings do, so that two apertures share one focus distance."""
    both = [SYNDOF, replace(SYNDOF, name="other", max_coc_px=SYNDOF.max_coc_px / 2)]
    frames = TrainingFrames(
        rendered.scenes, (), np.arange(4), "crop", 32, "defocused", stored=False, streams=False
    )
    sampler = build_sampler(frames, [[camera] for camera in both])
    for batch in epoch_of(sampler, 4):
        assert batch.lenses is not None
        focus_m = batch.lenses[:, :, 1]
        assert torch.equal(focus_m[:, 0], focus_m[:, 1]) and len(set(focus_m[:, 0].tolist())) > 1


def noisy(**changes) -> Camera:
    sensor = Sensor(shot=(1e-3, 1e-2), read=(1e-3, 1e-2), **changes)
    return replace(cameras(2.0)[0], sensor=sensor)


@pytest.fixture(scope="module")
def noisy_store(rendered: SimpleNamespace, tmp_path_factory) -> SimpleNamespace:
    return stored_by(noisy(quality=(70, 90)), rendered, tmp_path_factory.mktemp("noisy"))


def stored_by(camera: Camera, rendered: SimpleNamespace, folder: Path) -> SimpleNamespace:
    """The same frames by a camera with noise and compression, which their store still lacks."""
    records = []
    for index in range(4):
        rgb, depth = rendered.scenes.read("rgb", index), rendered.scenes.read("depth", index)
        image, coc = render_defocused(rgb, depth, camera.example((1, 5), SIZE[1]), "gather")
        records.append({"defocused": image, "coc": coc.astype(np.float16)})
    arrays = {"defocused": ((*SIZE, 3), np.uint8), "coc": (SIZE, np.float16)}
    table = list_renderings(rendered.scenes.frames, [camera])
    write_store(folder / "store", table, arrays, records, {"camera": camera.describe(SIZE[1])})
    defocused = open_store(folder / "store")
    return SimpleNamespace(scenes=rendered.scenes, defocused=defocused, cameras=[camera])


def test_noise_is_drawn_anew_for_each_epoch_and_the_same_again(noisy_store):
    first, again = drawn(noisy_store, epochs=2), drawn(noisy_store, epochs=2)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.defocused, other.defocused)
    whole = sampler(noisy_store, [0], "crop", 60)  # crops of nearly the whole frame
    seen = []
    for epoch in (1, 2):
        (batch,) = whole.batches(1, seed=0, epoch=epoch, hflip=0.0)
        seen.append(to_uint8(batch.to(CPU).defocused)[0][:, 13:47].astype(int))
    stored = noisy_store.defocused.read("defocused", 0)[:60].astype(int)
    assert np.abs(seen[0] - seen[1]).mean() > 1
    assert not any(np.array_equal(seen[0], stored[:, x : x + 34]) for x in range(27))


def test_stored_and_fresh_renderings_get_the_same_noise(rendered, tmp_path):
    """Up to the rounding of the stored one, which the curve of sRGB enlarges in dark places."""
    raw = stored_by(noisy(), rendered, tmp_path)
    fresh = drawn(raw, cameras=raw.cameras)
    for stored, rendered_anew in zip(drawn(raw), fresh, strict=True):
        assert torch.equal(stored.sharp, rendered_anew.sharp)
        difference = (stored.defocused - rendered_anew.defocused).abs() * 127.5
        assert difference.median() <= 1.01 and difference.mean() < 1
        noise = (stored.defocused - stored.sharp).abs() * 127.5
        assert noise.mean() > 5


def test_validation_sees_one_noise_and_it_is_not_the_clean_image(noisy_store):
    frames = [
        TrainingFrames(
            noisy_store.scenes, [noisy_store.defocused], np.arange(4), "crop", 32, exposed=exposed
        )
        for exposed in (True, True, False)
    ]
    one, same, clean = (each.shots[0].images[:] for each in frames)
    assert torch.equal(one, same) and not torch.equal(one, clean)


def test_noise_does_not_come_after_a_resize(noisy_store):
    with pytest.raises(HDEDError, match="on_the_fly"):
        sampler(noisy_store, range(4), "resize", 32)
    fresh = sampler(noisy_store, range(4), "resize", 32, noisy_store.cameras)
    first, again, other = (
        next(fresh.batches(4, seed=0, epoch=epoch, hflip=0.0)).to(CPU) for epoch in (1, 1, 2)
    )
    assert torch.equal(first.defocused, again.defocused)
    places = [other.indices.index(index) for index in first.indices]
    assert torch.equal(first.sharp, other.sharp[places])
    assert not torch.equal(first.defocused, other.defocused[places])


def test_rendered_on_the_fly_a_hole_is_blurred_as_in_the_store(tmp_path: Path):
    scenes = write_stores(tmp_path / "holes", splits=["train"] * 2, size=SIZE)
    camera = cameras(2.0)[0]
    depth = scenes.depth.copy()
    depth[:, 10:30, 20:40] = 0
    store = SimpleNamespace(
        frames=scenes.scenes.frames, attributes=scenes.scenes.attributes,
        arrays=scenes.scenes.arrays,
        read=lambda name, i: depth[i] if name == "depth" else scenes.scenes.read(name, i),
    )  # fmt: skip
    holed = SimpleNamespace(scenes=store, defocused=scenes.defocused)
    fresh = sampler(holed, range(2), "crop", 32, [camera])
    for epoch in range(1, 6):
        for batch in fresh.batches(2, seed=0, epoch=epoch, hflip=0.0):
            images = to_uint8(batch.to(CPU).defocused)
            for image, index, valid in zip(images, batch.indices, batch.to(CPU).valid, strict=True):
                lens = camera.lens(depth[index], SIZE[1], np.random.default_rng(0))
                whole, _ = render_defocused(scenes.rgb[index], depth[index], lens, "gather")
                windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32), (0, 1))
                found = (windows == image.transpose(2, 0, 1)).all((2, 3, 4))
                assert found.any()
                y, x = np.argwhere(found)[0]
                expected = depth[index][y : y + 32, x : x + 32] > 0
                np.testing.assert_array_equal(valid[0].numpy(), expected)


def test_frames_that_are_rendered_on_the_fly_read_no_stored_rendering(rendered, monkeypatch):
    def refuse(name: str, index: int) -> None:
        raise AssertionError(name)

    blind = SimpleNamespace(frames=rendered.defocused.frames, read=refuse)
    assert drawn(SimpleNamespace(scenes=rendered.scenes, defocused=blind), cameras=rendered.cameras)


def test_a_store_without_lenses_has_none(stores: SimpleNamespace) -> None:
    assert stored_lenses(stores.defocused) is None


def test_photographs_cannot_be_rendered_on_the_fly(stores: SimpleNamespace) -> None:
    network, train, _ = load_params(ROOT / "params.yaml").variant("full")
    train = train.model_copy(update={"refocus": "on_the_fly", "size_px": SIZE_PX})
    taken: Any = SimpleNamespace(attributes={"camera": {"renderer": PHOTOGRAPHS}})
    with pytest.raises(HDEDError, match=r"are photographs, which train\.refocus: on_the_fly"):
        build_fit(network, train, stores.scenes, [taken], seed=0)
