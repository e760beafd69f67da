"""What the stage `defocus` stores of each frame."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.cameras import PAPER
from support.renderings import records_of

from hded.blur.render import describe_photographs, list_renderings, render_defocused
from hded.common.errors import HDEDError
from hded.evaluation.controls import ControlRenderings
from hded.metrics import psnr
from hded.optics import Sensor

NOISY = replace(PAPER, sensor=Sensor(read=(0.01, 0.05), quality=(60, 90)))


def stored(stores: SimpleNamespace) -> list[dict]:
    table = list_renderings(stores.scenes.frames, [NOISY])
    return records_of(stores.scenes, table, [NOISY])


def test_test_images_have_noise_and_training_images_get_theirs_in_training(
    stores: SimpleNamespace,
) -> None:
    for index, record in enumerate(stored(stores)):
        rgb, depth = stores.scenes.read("rgb", index), stores.scenes.read("depth", index)
        lens = NOISY.lens(
            depth, stores.scenes.attributes["image_width_px"], np.random.default_rng()
        )
        clean, _ = render_defocused(rgb, depth, lens, "gather")
        difference = np.abs(record["defocused"].astype(int) - clean)
        if stores.scenes.frames["split"].iloc[index] == "train":
            assert not difference.any()
        else:
            assert difference.mean() > 1
            # what the report calls the input's own score is that of the noisy image
            assert record["psnr"] == pytest.approx(psnr(record["defocused"], rgb))


def test_the_noise_of_a_frame_is_the_same_again_and_differs_between_frames(
    stores: SimpleNamespace,
) -> None:
    one, two = stored(stores), stored(stores)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a["defocused"], b["defocused"])
    noise = []
    for index in stores.scenes.indices("test"):
        rgb, depth = stores.scenes.read("rgb", index), stores.scenes.read("depth", index)
        lens = NOISY.lens(
            depth, stores.scenes.attributes["image_width_px"], np.random.default_rng()
        )
        clean, _ = render_defocused(rgb, depth, lens, "gather")
        noise.append(one[index]["defocused"].astype(int) - clean)
    assert not np.array_equal(noise[0], noise[1])


def test_a_control_by_another_focus_distance_has_the_cameras_noise(
    stores: SimpleNamespace,
) -> None:
    plain, noisy = (ControlRenderings(stores.scenes, camera) for camera in (PAPER, NOISY))
    row = int(noisy.indices("test")[0])
    image = noisy.read("defocused", row)
    assert np.abs(image.astype(int) - plain.read("defocused", row)).mean() > 1
    again = ControlRenderings(stores.scenes, NOISY)
    np.testing.assert_array_equal(image, again.read("defocused", row))


def with_photographs(stores: SimpleNamespace, truths: tuple[str, ...] = ("depth", "all_in_focus")):
    """The same frames, of which photographs exist: their defocused images, brighter."""
    photographs = np.minimum(stores.defocused_rgb.astype(int) + 9, 255).astype(np.uint8)
    scenes = stores.scenes
    return photographs, SimpleNamespace(
        frames=scenes.frames,
        attributes={**scenes.attributes, "truths": list(truths)},
        arrays={**scenes.arrays, "defocused": None},
        read=lambda name, i: photographs[i] if name == "defocused" else scenes.read(name, i),
    )


def test_a_camera_that_took_photographs_gives_them_as_they_are(stores: SimpleNamespace) -> None:
    photographs, scenes = with_photographs(stores)
    taker = replace(NOISY, photographs=True)
    for camera, taken in ((taker, True), (NOISY, False)):
        table = list_renderings(scenes.frames, [camera])
        for i, record in enumerate(records_of(scenes, table, [camera])):
            assert np.array_equal(record["defocused"], photographs[i]) == taken
            if taken and scenes.frames["split"].iloc[i] == "test":
                assert record["psnr"] == pytest.approx(psnr(photographs[i], scenes.read("rgb", i)))
    described = describe_photographs([taker], 640)
    assert described["renderer"] == "none: photographs" and "noise" not in described
    with pytest.raises(HDEDError, match="one focus distance each"):
        describe_photographs([taker, taker], 640)


def test_without_a_sharp_truth_the_input_has_no_score(stores: SimpleNamespace) -> None:
    _, scenes = with_photographs(stores, ("depth",))
    camera = replace(PAPER, photographs=True)
    table = list_renderings(scenes.frames, [camera])
    for record in records_of(scenes, table, [camera]):
        assert math.isnan(record["psnr"]) and math.isnan(record["ssim"])
