"""The pictures of controls: another focus, or all in focus, in a store's place."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from support.cameras import PAPER
from support.stores import write_stores

from hded.blur import gaussian_gather_reference
from hded.blur.holes import fill_holes
from hded.blur.render import PHOTOGRAPHS, check_rendered
from hded.common.errors import HDEDError
from hded.config.schema import Evaluate, Restoration
from hded.evaluation.controls import ControlRenderings
from hded.evaluation.evaluate import EvaluationSet, SystemInput, evaluate, read_system_input
from hded.optics import NOT_DEFOCUSED, Camera
from hded.training.frames import TrainingFrames
from hded.training.samplers import StoredSampler
from hded.training.validation import whole_frames
from pipeline.evaluate import _check_truths

SIZE = (40, 56)
FAR = Camera(name="far", focal_length_m=0.07, aperture_m=0.4, focus_distance_m=4.0, max_coc_px=12.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_stores(tmp_path_factory.mktemp("retake"), size=SIZE)


def test_a_frame_is_taken_through_the_lens_that_the_test_asks_for(tiny):
    retaken = ControlRenderings(tiny.scenes, FAR)
    assert retaken.indices("test").tolist() == tiny.scenes.indices("test").tolist()
    assert retaken.attributes["camera"]["focus_distance_m"] == 4.0
    for index in (0, 9, 3):
        lens = FAR.lens(tiny.depth[index], SIZE[1], np.random.default_rng(0))
        depth_m = fill_holes(tiny.depth[index])
        sigma = lens.sigma_px(depth_m)
        expected = gaussian_gather_reference(tiny.rgb[index], sigma)
        found = retaken.read("defocused", index)
        assert found.dtype == np.uint8 and (found != tiny.rgb[index]).any()
        np.testing.assert_allclose(found, 255 * expected, rtol=0, atol=0.51)
        np.testing.assert_allclose(retaken.read("coc", index), lens.coc_px(depth_m), atol=0.01)


def test_a_network_is_told_the_lens_that_a_control_draws(tiny):
    drawn = replace(FAR, focal_length_m=(0.05, 0.07, 0.09), focus_distance_m=None)
    retaken = ControlRenderings(tiny.scenes, drawn)
    lenses = []
    for row in retaken.indices("test"):
        shown = read_system_input(tiny.scenes, [retaken], int(row))
        assert shown.lens is not None
        coc = shown.lens.coc_px(fill_holes(shown.depth_m))
        np.testing.assert_array_equal(coc, retaken.read("coc", int(row)))
        lenses.append(shown.lens)
    assert len(set(lenses)) == len(lenses)
    # each frame has the lens that the stage `defocus` draws with its seed
    elsewhere = ControlRenderings(tiny.scenes, drawn, seed=3)
    for row in elsewhere.indices("test"):
        frame = int(elsewhere.frames["frame_index"].iloc[row])
        depth_m = tiny.scenes.read("depth", frame)
        width_px = tiny.scenes.attributes["image_width_px"]
        lens = drawn.lens(depth_m, width_px, np.random.default_rng([3, frame]))
        assert elsewhere.lens(int(row)) == lens and lens not in lenses
    assert read_system_input(tiny.scenes, [ControlRenderings(tiny.scenes, None)], 10).lens is None


def test_without_a_camera_the_sharp_image_is_the_picture(tiny):
    retaken = ControlRenderings(tiny.scenes, None)
    np.testing.assert_array_equal(retaken.read("defocused", 10), tiny.rgb[10])
    assert not retaken.read("coc", 10).any()


def test_evaluation_reads_them_as_a_store(tiny):
    seen = []

    def give_back(images: Sequence[SystemInput]) -> list[dict[str, np.ndarray]]:
        pictures = [image.rgb for image in images]
        seen.extend(pictures)
        depth = np.full(pictures[0].shape[:2], 2.0, np.float32)
        return [{"depth": depth, "all_in_focus": picture} for picture in pictures]

    heads = ("depth", "all_in_focus")
    retaken = ControlRenderings(tiny.scenes, FAR)
    result = evaluate(give_back, tiny.scenes, [retaken], heads=heads, size_px=None)
    for index, picture in zip(tiny.scenes.indices("test"), seen, strict=True):
        np.testing.assert_array_equal(picture, retaken.read("defocused", index))
    scores = result.metrics["all_in_focus"]["native"]
    assert scores["network"]["psnr"] == scores["input"]["psnr"] < 60
    sharp = evaluate(
        give_back, tiny.scenes, [ControlRenderings(tiny.scenes, None)], heads=heads, size_px=None
    )
    assert sharp.metrics["all_in_focus"]["native"]["input"]["ssim"] == pytest.approx(1.0)


def test_a_network_of_sharp_input_trains_and_validates_on_sharp_images(tiny):
    frames = TrainingFrames(tiny.scenes, [tiny.defocused], np.arange(4), "crop", 32, "sharp")
    for each in StoredSampler(frames).batches(2, seed=0, epoch=1, hflip=0.5):
        batch = each.to(torch.device("cpu"))
        assert (batch.defocused == batch.sharp).all()
    for batch, defocused, sharp in whole_frames(frames):
        np.testing.assert_array_equal(defocused, sharp)
        assert (batch.defocused == batch.sharp).all()


@pytest.mark.parametrize(
    ("how", "missing", "words"),
    [
        (Evaluate(network_input="sharp"), "all_in_focus", "no true all-in-focus"),
        (
            Evaluate(restoration=Restoration(method="total_variation", depth="ground_truth")),
            "depth",
            "no true depth",
        ),
    ],
)
def test_a_test_that_reads_a_truth_which_is_not_there_is_refused(
    how: Evaluate, missing: str, words: str
) -> None:
    truths = [name for name in ("depth", "all_in_focus") if name != missing]
    store = SimpleNamespace(attributes={"dataset": "own", "truths": truths})
    with pytest.raises(HDEDError, match=f"own: its frames hold {words}"):
        _check_truths(store, how)  # pyright: ignore[reportArgumentType]
    store.attributes["truths"] = ["depth", "all_in_focus"]
    _check_truths(store, how)  # pyright: ignore[reportArgumentType]


def test_stand_ins_of_frames_that_lack_a_truth_are_never_rendered() -> None:
    """Else a photograph would be blurred a second time, or a sharp one count as defocused."""
    rendered, taken = PAPER.describe(640), {**PAPER.describe(640), "renderer": PHOTOGRAPHS}
    for truths, word in ((("depth",), "all-in-focus"), (("all_in_focus",), "depth")):
        with pytest.raises(HDEDError, match=f"own: its frames hold no true {word}, .*photographs"):
            check_rendered("own", truths, rendered)
        check_rendered("own", truths, taken)
        check_rendered("own", truths, {"name": NOT_DEFOCUSED})
    check_rendered("own", ("depth", "all_in_focus"), rendered)


def test_a_control_keeps_the_frames_own_lens_and_changes_its_focus_alone(tiny) -> None:
    count = len(tiny.scenes.frames)
    own = tiny.scenes.frames.assign(
        stated_f_number=np.linspace(2, 8, count), stated_focus_distance_m=np.full(count, 1.5)
    )
    scenes = SimpleNamespace(frames=own, attributes=tiny.scenes.attributes, read=tiny.scenes.read)
    retaken = ControlRenderings(scenes, replace(FAR, photographs=True))  # pyright: ignore
    for row in (0, 5, count - 1):
        lens = retaken.lens(row)
        assert lens is not None and lens.focus_distance_m == 4.0
        assert lens.f_number == pytest.approx(own["stated_f_number"].iloc[row])
    described = retaken.attributes["camera"]
    assert described["f_number"] is None and described["focus_distance_m"] == 4.0


def test_images_that_are_read_together_are_of_the_same_frames(tiny) -> None:
    several = ControlRenderings(tiny.scenes, FAR)
    several.frames = pd.concat([several.frames] * 2).sort_values("frame_index", ignore_index=True)
    with pytest.raises(HDEDError, match=r"far and far: .* has more focus distances; give both one"):
        EvaluationSet(
            tiny.scenes, [ControlRenderings(tiny.scenes, FAR), several],
            heads=("depth",), size_px=None, median_m=2.0,
        )  # fmt: skip
