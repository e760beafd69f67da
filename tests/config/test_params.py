"""params.yaml: the committed file is valid, and every mistake in one is one line naming its key."""

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML
from support.cameras import CAMERAS, PAPER, SYNDOF

from hded.common.errors import HDEDError
from hded.config.params import Params, load_params
from hded.config.schema import Loss
from hded.optics import Sensor

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")
CONTENT = YAML(typ="safe").load(COMMITTED)


def edited(change: Callable[[Any], None]) -> str:
    """The committed file, without its comments, with a change made to its content."""
    changed = copy.deepcopy(CONTENT)
    change(changed)
    text = StringIO()
    YAML(typ="safe").dump(changed, text)
    return text.getvalue()


def with_value(key: str, value: Any) -> str:
    """The committed file with the value at a dotted key replaced or added."""

    def change(content: Any) -> None:
        *path, last = key.split(".")
        for part in path:
            content = content[part]
        content[last] = value

    return edited(change)


def written(value: str, key: str = "lr") -> str:
    """The committed file with `train.KEY` written as the given YAML text."""
    text, count = re.subn(rf"^  {key}: \S+", f"  {key}: {value}", COMMITTED, flags=re.MULTILINE)
    assert count == 1
    return text


def load(tmp_path: Path, text: str | bytes) -> Params:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_params(path)


def refusal(tmp_path: Path, text: str | bytes) -> str:
    """The message of a file that must be refused: one printable line that names the file."""
    with pytest.raises(HDEDError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "params.yaml: " in message
    assert "\n" not in message and message.isprintable()
    return message


def test_the_file_is_valid_and_its_preset_has_the_papers_lambda(tmp_path):
    params = load_params(ROOT / "params.yaml")
    assert params.presets["paper"]["train"]["loss"]["lambda"] == 0.01
    assert load(tmp_path, COMMITTED) == params


def test_the_cameras_are_those_of_their_sources():
    unchanged = ["git", "diff", "--quiet", "HEAD", "--", "params.yaml"]
    if subprocess.run(unchanged, cwd=ROOT).returncode:
        pytest.skip("params.yaml was changed: its cameras are yours")
    params = load_params(ROOT / "params.yaml")
    assert {name: params.camera(name) for name in CAMERAS} == {
        name: (camera,) for name, camera in CAMERAS.items()
    }


def test_every_committed_variant_changes_what_it_says_and_nothing_else():
    params = load_params(ROOT / "params.yaml")
    assert len(params.variants) > 20
    network, train, _ = params.variant("full")
    assert (network, train) == (params.network, params.train)
    losses = {
        "l1_l1": {"mu": 0.0, "content": "l1", "psi": 0.0},
        "l1_charbonnier": {"mu": 0.0, "psi": 0.0},
        "grad_charbonnier": {"psi": 0.0},
        "charbonnier_ssim": {"mu": 0.0},
    }
    for name, changes in losses.items():
        network, train, _ = params.variant(name)
        assert network == params.network
        assert train.loss == params.train.loss.model_copy(update=changes)
        assert train.model_copy(update={"loss": params.train.loss}) == params.train
    for name, head in (("depth_only", "depth"), ("deblur_only", "all_in_focus")):
        network, train, _ = params.variant(name)
        assert train == params.train
        assert network == params.network.model_copy(update={"heads": [head]})


def test_a_variant_leaves_ones_own_values_beside_its_changes(tmp_path):
    def change(content: Any) -> None:
        content["train"]["loss"].update({"lambda": 0.5, "gradient": "prewitt"})
        content["variants"]["l1_l1"]["train"]["lr"] = 0.125

    _, train, _ = load(tmp_path, edited(change)).variant("l1_l1")
    assert (train.loss.lambda_, train.loss.gradient, train.lr) == (0.5, "prewitt", 0.125)
    assert (train.loss.mu, train.loss.content, train.loss.psi) == (0.0, "l1", 0.0)


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises(HDEDError, match="nope"):
        load_params(ROOT / "params.yaml").variant("nope")


def test_the_settings_of_a_loss_are_named_in_python_and_in_the_file_each_its_own_way(tmp_path):
    assert Loss(lambda_=0.5) == Loss.model_validate({"lambda": 0.5})
    message = refusal(tmp_path, with_value("train.loss.lambda_", 0.5))
    assert "train.loss.lambda_ is not a known key" in message


def test_params_cannot_be_changed_once_read():
    params = load_params(ROOT / "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.train.lr = 1.0


@pytest.mark.parametrize("text", ["2e-4", "1e-4", "2.0E-4", "0.0002", "1"])
def test_numbers_are_read_as_dvc_reads_them(tmp_path, text):
    assert load(tmp_path, written(text)).train.lr == float(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.colour", 1),
        ("train.learning_rate", 1.0),
        ("train.loss.alpha", 1.0),
        ("network.depth", 121),
        ("defocus.f_number", 2.8),
        ("download.nyu.sorce", "sample"),
        ("download.nyu.sample.val", 3),
        ("convert.subsets", 3),
        ("evaluate.crop", "eigen"),
        ("variants.full.trian", {}),
        ("variants.full.train", {"lrr": 1.0}),
        ("variants.l1_l1.train.loss", {"nu": 1.0}),
        ("variants.full.network", {"head": ["depth"]}),
        ("trian", {}),
    ],
)
def test_an_unknown_key_is_named(tmp_path, key, value):
    message = refusal(tmp_path, with_value(key, value))
    last = key if not isinstance(value, dict) or not value else f"{key}.{next(iter(value))}"
    assert last in message and "not a known key" in message


@pytest.mark.parametrize("key", ["train.epochs", "network.heads", "run", "run.seeds", "evaluate"])
def test_a_missing_key_is_named(tmp_path, key):
    def remove(content: Any) -> None:
        *path, last = key.split(".")
        for part in path:
            content = content[part]
        del content[last]

    assert f"{key} is missing" in refusal(tmp_path, edited(remove))


def test_a_misspelt_key_is_named_and_not_the_one_it_should_be(tmp_path):
    message = refusal(tmp_path, COMMITTED.replace("\n  epochs: ", "\n  epoch: ", 1))
    assert "train.epoch is not a known key" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", 60.0),
        ("train.epochs", "60"),
        ("train.epochs", True),
        ("train.lr", "2e-4 "),
        ("train.lr", True),
        ("train.lr", None),
        ("train.lr", [1.0]),
        ("train.betas", 0.5),
        ("train.loss", 3),
        ("train.loss", None),
        ("train", []),
        ("network.heads", "depth"),
        ("network.width", "0.25"),
        ("run.seeds", 0),
        ("run.seeds", ["0"]),
        ("run.seeds", [False]),
        ("run.datasets", "nyu"),
        ("download.nyu.source", 3),
        ("download.nyu.sample.train", 4.5),
        ("download.nyu.official", "https://example.org"),
        ("convert.subset", "all"),
        ("cameras.paper.focus_distance_m", "2 m"),
        ("cameras.paper.focus_distance_m", True),
        ("cameras.paper.focus_distance_m", {"m": 2.0}),
        ("cameras.paper.focus_distance_m", [1.0, "far"]),
        ("cameras.paper.focus_distance_m", [[1.0]]),
        ("variants.full", "the full loss"),
        ("variants.full.description", None),
        ("variants", ["full"]),
        ("evaluate.examples", 6.5),
        ("presets.paper", ["train.lr"]),
    ],
)
def test_a_wrong_type_is_refused_by_key(tmp_path, key, value):
    assert key in refusal(tmp_path, with_value(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", 0),
        ("train.reduce", [0.0, 1.0]),
        ("train.reduce", [0.5, 1.5]),
        ("train.batch_size", 0),
        ("train.size_px", 100),
        ("train.size_px", 0),
        ("train.size_px", 16),
        ("train.hflip", 1.5),
        ("train.hflip", -0.1),
        ("train.optimizer", "rmsprop"),
        ("train.lr", 0.0),
        ("train.lr", -1.0),
        ("train.lr", float("nan")),
        ("train.lr", float("inf")),
        ("train.betas", [0.5, 1.0]),
        ("train.betas", [0.5]),
        ("train.betas", [0.5, 0.9, 0.99]),
        ("train.momentum", 1.0),
        ("train.momentum", float("nan")),
        ("train.schedule", "cosine"),
        ("train.lr_milestone", 0.0),
        ("train.lr_gamma", 2.0),
        ("train.val_fraction", 0.6),
        ("train.val_fraction", -0.1),
        ("train.val_interval", 0),
        ("train.checkpoint", "first"),
        ("train.geometry", "squash"),
        ("train.device", "gpu"),
        ("train.loss.mu", -0.001),
        ("train.loss.psi", -4.0),
        ("train.loss.lambda", -0.01),
        ("train.loss.lambda", float("inf")),
        ("train.loss.gradient", "sobel"),
        ("train.loss.content", "l2"),
        ("network.heads", []),
        ("network.heads", ["normals"]),
        ("network.heads", ["depth", "depth"]),
        ("network.width", 0.0),
        ("network.width", -1.0),
        ("network.dropout", 1.0),
        ("network.dropout", -0.5),
        ("network.depth_scale_m", 0.0),
        ("network.joint", "sum"),
        ("network.output", "sigmoid"),
        ("network.init", "zeros"),
        ("network.weights", ""),
        ("defocus.camera", "pinhole"),
        ("defocus.seed", -1),
        ("cameras.paper.focus_distance_m", 0.0),
        ("cameras.paper.focus_distance_m", 0.05),
        ("cameras.paper.focus_distance_m", 0.07),
        ("cameras.paper.focus_distance_m", float("nan")),
        ("cameras.paper.focus_distance_m", []),
        ("cameras.paper.focus_distance_m", [2.0, 2.0]),
        ("cameras.paper.focus_distance_m", [2.0, 0.05]),
        ("cameras.paper.focus_distance_m", [2.0, None]),
        ("cameras.paper.focus_distance_m", None),
        ("cameras.paper.focus_distance_m", "drawn"),
        ("defocus.renderer", "scatter"),
        ("train.refocus", True),
        ("cameras.paper.focal_length_mm", -50),
        ("cameras.paper.aperture_mm", -10.0),
        ("cameras.paper.aperture_mm", 0.0),
        ("cameras.paper.max_coc_px", 0.0),
        ("cameras.paper.max_coc_px", float("inf")),
        ("cameras.paper.sigma_rule", "half"),
        ("run.datasets", []),
        ("run.datasets", ["kitti"]),
        ("run.datasets", ["nyu", "nyu"]),
        ("run.variants", []),
        ("run.variants", ["fulll"]),
        ("run.seeds", []),
        ("run.seeds", [0, 0]),
        ("run.seeds", [-1]),
        ("run.seeds", [2**32]),
        ("download.nyu.source", ""),
        ("download.nyu.source", "folder"),
        ("download.nyu.sample", None),
        ("download.nyu.sample.test", 0),
        ("download.kitti", {"source": "official"}),
        ("download.kitti", {"source": "folder"}),
        ("convert.subset", 0),
        ("evaluate.examples", 2),
        ("variants.full.train", {"lr": -1.0}),
        ("variants.l1_l1.train.loss.mu", -1.0),
        ("variants.depth_only.network.heads", ["normals"]),
    ],
)
def test_an_impossible_value_is_refused_by_key(tmp_path, key, value):
    message = refusal(tmp_path, with_value(key, value))
    assert key.rsplit(".", 1)[-1] in message
    assert key.split(".")[0] in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.loss.weighting", "uncertainty"),
        ("train.loss.weighting", "gradnorm"),
        ("train.loss.consistency", 0.1),
        ("train.network_input", "sharp"),
        ("train.refocus", "on_the_fly"),
        ("train.geometry", "resize"),
        ("network.heads", ["depth"]),
        ("network.heads", ["all_in_focus"]),
        ("network.encoder", "efficientnet_lite0"),
        ("network.decoder", "bilinear"),
        ("network.readout", "log"),
        ("network.reads_lens", True),
        ("network.context", "spatial_pyramid"),
        ("network.cascade", "all_in_focus"),
        ("evaluate.camera", ["paper"]),
        ("evaluate.focus_distance_m", 3.0),
        ("evaluate.network_input", "sharp"),
        ("evaluate.restoration", {"method": "total_variation"}),
    ],
)
def test_a_setting_of_all_variants_is_not_forbidden_by_one_that_is_not_selected(
    tmp_path, key, value
):
    params = load(tmp_path, with_value(key, value))
    *path, last = key.split(".")
    section = dict(zip(("network", "train", "evaluate"), params.variant("full"), strict=True))
    found = section[path[0]]
    for part in path[1:]:
        found = getattr(found, part)
    found = getattr(found, last)
    assert (found.method if last == "restoration" else found) == (
        value["method"] if isinstance(value, dict) else tuple(value) if last == "camera" else value
    )


def test_a_variant_that_does_not_fit_the_settings_of_all_is_refused_once_it_is_selected(tmp_path):
    def change(content: Any) -> None:
        content["evaluate"]["network_input"] = "sharp"
        content["run"]["variants"] = ["full", "refocused"]
        content["variants"]["refocused"] = {
            "description": "x",
            "evaluate": {"focus_distance_m": 1.0},
        }

    assert "variants.refocused.evaluate" in refusal(tmp_path, edited(change))

    def leave_out(content: Any) -> None:
        change(content)
        content["run"]["variants"] = ["full"]

    params = load(tmp_path, edited(leave_out))
    with pytest.raises(HDEDError, match=r"variants\.refocused\.evaluate"):
        params.variant("refocused")


def test_a_camera_of_all_evaluations_is_named_by_its_own_key(tmp_path):
    message = refusal(tmp_path, with_value("evaluate.camera", ["nope"]))
    assert "params.yaml: evaluate.camera: 'nope' does not exist" in message


@pytest.mark.parametrize("key", ["defocus.camera", "evaluate.camera", "variants.l1_l1.camera"])
def test_a_camera_for_a_dataset_that_does_not_exist_is_refused(tmp_path, key):
    message = refusal(tmp_path, with_value(key, {"nyu": ["paper"], "make3": ["paper"]}))
    assert f"{key}: the dataset 'make3' does not exist" in message


def test_a_cascade_names_each_head_that_it_lacks_once(tmp_path):
    changes = {"heads": ["all_in_focus"], "cascade": "depth"}
    message = refusal(tmp_path, with_value("variants.full.network", changes))
    assert message.endswith("heads needs depth")


def test_an_official_source_needs_its_urls(tmp_path):
    def change(content: Any) -> None:
        content["download"]["make3d"]["source"] = "official"
        del content["download"]["make3d"]["official"]

    assert "download.make3d.official" in refusal(tmp_path, edited(change))


@pytest.mark.parametrize("name", ["Full", "a b", "1st", "x-y", "../up", ""])
@pytest.mark.parametrize("section", ["variants", "download", "presets"])
def test_a_name_that_could_not_be_a_folder_is_refused(tmp_path, section, name):
    value = {"variants": {"description": ""}, "download": {"source": "folder", "path": "x"}}
    message = refusal(tmp_path, with_value(section, {name: value.get(section, {})}))
    assert section in message


def test_keeping_the_best_epoch_needs_validation_frames(tmp_path):
    message = refusal(
        tmp_path,
        edited(lambda content: content["train"].update(val_fraction=0.0, checkpoint="best")),
    )
    assert "checkpoint" in message and "val_fraction" in message


def test_frames_are_reduced_only_where_their_crops_are_rendered_anew(tmp_path):
    message = refusal(tmp_path, with_value("train.reduce", [0.5, 1.0]))
    assert "needs refocus: on_the_fly and geometry: crop" in message
    message = refusal(tmp_path, with_value("train.reduce", [1.0, 0.5]))
    assert "reduce [1.0, 0.5] must ascend" in message
    changes = {"refocus": "on_the_fly", "reduce": [0.5, 1.0]}
    content = with_value("variants.full.train", changes)
    assert load(tmp_path, content).variant("full")[1].reduce == [0.5, 1.0]


def test_a_focus_inside_the_focal_length_of_ones_own_lens_is_refused(tmp_path):
    message = refusal(tmp_path, with_value("cameras.paper.focal_length_mm", 2500))
    assert "cameras.paper: focus_distance_m" in message and "focal length" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"f_number": 2.8}, "has both aperture_mm and f_number"),
        ({"pixel_pitch_um": 5.6}, "has both sensor_width_mm and pixel_pitch_um"),
        ({"sensor_width_mm": None}, "no sensor_width_mm and no pixel_pitch_um"),
        ({"focal_weights": [0.5, 0.5]}, "focal_weights has 2 entries, focal_length_mm 1"),
        ({"focal_length_mm": [50, -70]}, "is not a focal length"),
        ({"focal_length_mm": []}, "is not a focal length"),
        ({"focal_length_mm": 0.07}, "check the units: lengths are in millimetres"),
        ({"aperture_mm": 4480.0}, "brighter than any lens"),
        ({"aperture_mm": None, "f_number": [2.8, 0.3]}, "brighter than any lens"),
        ({"aperture_mm": None, "f_number": [2.8, "f/4"]}, "is not an f-number"),
        ({"softness_px": -1.0}, "softness_px"),
        ({"noise": {"shot": [0.1, 0.01]}}, "a list of two that ascend"),
        ({"noise": {"read": 2.0}}, "read 2.0 must be within 0 and 1"),
        ({"noise": {"iso": 3200}}, "noise.iso"),
        ({"jpeg": {"quality": 0}}, "quality [0, 0] must be whole numbers within 1 and 100"),
        ({"jpeg": {"quality": 90.5}}, "must be whole numbers"),
        ({"jpeg": {"quality": 90, "subsampling": "4:1:1"}}, "subsampling"),
        ({"jpeg": 90}, "cameras.paper.jpeg"),
    ],
)
def test_a_camera_that_contradicts_itself_is_refused(tmp_path, changes, words):
    text = edited(lambda content: content["cameras"]["paper"].update(changes))
    message = refusal(tmp_path, text)
    assert "cameras.paper" in message and words in message


def test_a_camera_is_stated_as_a_photographer_does(tmp_path):
    own = {
        "focal_length_mm": 35, "f_number": 2.8, "focus_distance_m": 1.7, "sensor_width_mm": 23.6,
        "max_coc_px": 12.0, "sigma_rule": "syndof",
    }  # fmt: skip
    (camera,) = load(tmp_path, with_value("cameras.mine", own)).camera("mine")
    lens = camera.lens(np.empty(0), 645, np.random.default_rng(0))
    assert lens.focal_length_m == 0.035 and lens.aperture_m == pytest.approx(0.0125)
    assert lens.pixel_pitch_m == pytest.approx(0.0236 / 645)
    assert (lens.focus_distance_m, lens.max_coc_px, lens.sigma_rule) == (1.7, 12.0, "syndof")


def test_a_camera_has_noise_and_compression_and_may_draw_its_f_number(tmp_path):
    own = {
        "focal_length_mm": 35, "f_number": [2, 2.8, 4], "focus_distance_m": 1.7,
        "sensor_width_mm": 23.6, "softness_px": 0.4, "noise": {"shot": [1e-4, 1e-2], "read": 0.002},
        "jpeg": {"quality": [75, 95], "subsampling": "4:4:4"},
    }  # fmt: skip
    (camera,) = load(tmp_path, with_value("cameras.mine", own)).camera("mine")
    assert camera.sensor == Sensor(
        shot=(1e-4, 1e-2), read=(0.002, 0.002), quality=(75, 95), subsampling="4:4:4"
    )
    lenses = [camera.lens(np.empty(0), 645, np.random.default_rng(n)) for n in range(30)]
    assert {round(lens.f_number, 6) for lens in lenses} == {2, 2.8, 4}
    assert {lens.softness_px for lens in lenses} == {0.4} and camera.draws
    described = camera.describe(645)
    assert described["f_number"] is None and described["aperture_m"] is None
    assert described["softness_px"] == 0.4
    plain = load(tmp_path, COMMITTED).camera("paper")[0].describe(645)
    assert not plain.keys() & {"noise", "jpeg", "softness_px"}  # as before these settings existed


def test_a_list_of_focus_distances_is_a_camera_for_each(tmp_path):
    params = load(tmp_path, with_value("cameras.paper.focus_distance_m", [1, 2.5]))
    assert params.camera("paper") == tuple(
        replace(PAPER, focus_distance_m=distance) for distance in (1, 2.5)
    )


def test_a_focus_distance_may_be_drawn(tmp_path):
    text = with_value("cameras.paper.focus_distance_m", "random")
    assert load(tmp_path, text).camera("paper") == (replace(PAPER, focus_distance_m=None),)
    assert load(tmp_path, COMMITTED).camera("syndof") == (SYNDOF,)


def test_each_dataset_and_each_variant_may_have_a_camera_of_its_own(tmp_path):
    def change(content: Any) -> None:
        content["run"].update(
            datasets=["nyu", "make3d"], cameras=["paper", "d3net"], variants=["full", "l1_l1"]
        )
        content["defocus"]["camera"] = {"nyu": "paper", "make3d": "d3net"}
        content["variants"]["l1_l1"]["camera"] = ["paper", "d3net"]

    params = load(tmp_path, edited(change))
    assert params.camera_names("full", "nyu") == ("paper",)
    assert params.camera_names("full", "make3d") == ("d3net",)
    assert params.camera_names("l1_l1", "nyu") == ("paper", "d3net")


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        ("pinhole", "'pinhole' does not exist"),
        ("d3net", "nothing is rendered by the camera d3net; add it to run.cameras"),
        ({"make3d": "paper"}, "names no camera for the dataset nyu"),
        ([], "names no camera"),
        (["paper", "paper"], "names one camera twice"),
        (3, "names no camera"),
    ],
)
def test_a_variants_camera_that_is_not_there_is_named(tmp_path, camera, words):
    def change(content: Any) -> None:
        content["run"].update(datasets=["nyu"], cameras=["paper"], variants=["full"])
        content["variants"]["full"]["camera"] = camera

    message = refusal(tmp_path, edited(change))
    assert "variants.full.camera" in message and words in message


def test_a_network_may_be_tested_on_another_dataset_and_through_another_camera(tmp_path):
    def change(content: Any) -> None:
        content["run"].update(
            datasets=["nyu", "make3d"], cameras=["paper", "d3net"], variants=["full"]
        )
        content["variants"]["full"].update(train_on="nyu", evaluate={"camera": {
            "nyu": "paper", "make3d": "d3net",
        }})  # fmt: skip

    params = load(tmp_path, edited(change))
    assert params.training_dataset("full", "make3d") == "nyu"
    assert params.training_dataset("l1_l1", "make3d") == "make3d"
    assert params.camera_names("full", "make3d") == ("paper",)
    assert params.test_camera_names("full", "make3d") == ("d3net",)
    assert params.test_camera_names("full", "nyu") == ("paper",)
    assert params.test_camera_names("l1_l1", "nyu") == ("paper",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_on": "make3d"}, "variants.full.train_on: 'make3d' is not in run.datasets"),
        ({"evaluate": {"camera": "d3net"}}, "evaluate.camera: nothing is rendered by the camera"),
        ({"evaluate": {"camera": ["paper", "paper_f8"]}}, "reads 1 pictures, by paper"),
        ({"evaluate": {"camera": "paper", "network_input": "sharp"}}, "leave camera null"),
        ({"evaluate": {"camera": 3}}, "evaluate.camera"),
    ],
)
def test_a_test_elsewhere_that_cannot_be_is_refused(tmp_path, changes, words):
    def change(content: Any) -> None:
        cameras = ["paper", "paper_f8"]
        content["run"].update(datasets=["nyu"], cameras=cameras, variants=["full"])
        content["variants"]["full"].update(changes)

    assert words in refusal(tmp_path, edited(change))


@pytest.mark.parametrize(
    ("network", "train", "evaluate", "words"),
    [
        ({"encoder": "unet"}, {}, {}, "unet goes with the encoder unet"),
        ({"decoder": "plain"}, {}, {}, "plain or dilated or neumann goes with the encoder none"),
        ({"encoder": "none", "decoder": "neumann"}, {}, {}, "must be [all_in_focus]"),
        ({"encoder": "none", "decoder": "plain", "weights": "imagenet", "width": 1.0}, {}, {},
         "the encoder none has no published weights"),
        ({"cascade": "depth", "heads": ["all_in_focus"]}, {}, {}, "heads needs depth"),
        ({"readout": "ordinal"}, {}, {}, "ordinal goes with ordinal"),
        ({}, {"loss": {"depth": "ordinal"}}, {}, "ordinal goes with ordinal"),
        ({}, {"loss": {"depth": "reblur"}}, {}, "set it to log"),
        ({"readout": "log", "heads": ["depth"]},
         {"geometry": "resize", "loss": {"depth": "reblur"}}, {}, "set train.geometry to crop"),
        ({}, {"geometry": "resize", "loss": {"consistency": 0.5}}, {}, "train.geometry to crop"),
        ({}, {"loss": {"depth": "coc"}}, {}, "set it to coc"),
        ({"readout": "coc", "confidence": True},
         {"loss": {"depth": "coc_likelihood", "weighting": "uncertainty"}}, {},
         "set weighting to fixed"),
        ({"confidence": True}, {}, {}, "confidence is that of the readouts log and coc"),
        ({"readout": "coc", "confidence": True}, {"loss": {"depth": "coc"}}, {},
         "by coc_likelihood with coc"),
        ({"readout": "coc"}, {"loss": {"depth": "coc_likelihood"}}, {},
         "by coc_likelihood with coc"),
        ({"readout": "coc", "confidence": True}, {"loss": {"depth": "log_l1"}}, {},
         "by coc_likelihood with coc"),
        ({"readout": "log", "confidence": True}, {"loss": {"depth": "l1"}}, {},
         "by log_l1 with the readout log"),
        ({"readout": "log", "confidence": True},
         {"loss": {"depth": "log_l1", "weighting": "gradnorm"}}, {}, "set weighting to fixed"),
        ({"readout": "coc"}, {"network_input": "sharp"}, {}, "a sharp image shows no CoC"),
        ({"encoder": "none", "decoder": "plain", "reads_lens": True}, {}, {}, "reads_lens"),
        ({"heads": ["depth"]}, {"loss": {"consistency": 0.5}}, {}, "consistency: compares both"),
        ({}, {}, {"restoration": {"method": "denoiser"}}, "network.denoiser is false"),
        ({"heads": ["all_in_focus"]}, {}, {"restoration": {"method": "total_variation"}},
         "which needs depth"),
        ({}, {}, {"network_input": "sharp", "restoration": {"method": "total_variation"}},
         "nothing to restore"),
        ({"depth_range_m": [5.0, 1.0]}, {}, {}, "must ascend"),
    ],
)  # fmt: skip
def test_a_system_whose_parts_do_not_fit_is_refused(tmp_path, network, train, evaluate, words):
    def change(content: Any) -> None:
        content["variants"]["full"].update(network=network, train=train, evaluate=evaluate)

    message = refusal(tmp_path, edited(change))
    assert "variants.full" in message and words in message


def test_refocusing_on_the_fly_is_refused_where_the_stored_images_are_layered(tmp_path):
    def change(content: Any) -> None:
        content["defocus"]["renderer"] = "layered"
        content["variants"]["l1_l1"]["train"]["refocus"] = "on_the_fly"
        content["run"]["variants"] = ["l1_l1"]

    message = refusal(tmp_path, edited(change))
    assert "refocus" in message and "layered" in message
    alone = edited(lambda content: content["defocus"].update(renderer="layered"))
    assert load(tmp_path, alone).defocus.renderer == "layered"


def test_ones_own_pictures_are_a_dataset(tmp_path):
    text = with_value("download.own", {"source": "folder", "path": "pictures"})
    entry = load(tmp_path, text).download["own"]
    assert (entry.path, entry.depth_unit_m, entry.max_depth_m) == ("pictures", 0.001, 10.0)


@pytest.mark.parametrize(
    "text", ["no", "yes", "off", "~", "2020-01-01", "1_0.x", "0x1g", "1,5", '"1"', "{}", "!!str 1"]
)
def test_what_yaml_makes_of_odd_text_is_refused_by_key(tmp_path, text):
    assert "train.lr" in refusal(tmp_path, written(text))


@pytest.mark.parametrize("text", ["2020-13-45", "!!int foo", "!!float x", "!!bool x", "0x_"])
def test_a_scalar_that_yaml_cannot_build_is_one_line_too(tmp_path, text):
    refusal(tmp_path, written(text))


def test_a_key_that_stands_twice_is_named(tmp_path):
    text = COMMITTED.replace("  lr: ", "  lr: 1.0\n  lr: ", 1)
    assert '"lr"' in refusal(tmp_path, text)


def test_a_key_with_a_line_break_is_still_one_line(tmp_path):
    refusal(tmp_path, COMMITTED.replace("  lr: ", '  "l\\nr": 1.0\n  lr: ', 1))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# only a comment\n",
        b"- run\n- train\n",
        b"just words\n",
        b"3\n",
        b"run: [nyu\n",
        b"run: {a: 1\ntrain:\n",
        b"\trun: 1\n",
        b"run: *nowhere\n",
        b"run: !!python/name:os.system\n",
        b"a: 1\n---\nb: 2\n",
        b"run: \x00\n",
        b"\xff\xfe\x00r\x00u",
        b"run: caf\xe9\n",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_a_file_that_is_no_mapping_of_sections_is_one_line(tmp_path, content):
    refusal(tmp_path, content)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(HDEDError, match=re.escape(str(tmp_path / "params.yaml"))):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(HDEDError, match="cannot be read"):
        load_params(tmp_path)


# --- presets -------------------------------------------------------------------------------------


def apply(tmp_path: Path, *presets: str, text: str = COMMITTED) -> subprocess.CompletedProcess[str]:
    """Apply presets in turn to a copy of params.yaml, as a user does; give the last's result."""
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.CompletedProcess([], 0, "", "")
    for preset in presets:
        command = [sys.executable, "-m", "pipeline.preset", preset]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    return done


def comments(text: str) -> list[str]:
    return re.findall(r"(?:^|\s)#\s*(\S.*)$", text, re.MULTILINE)


def content(text: str) -> Any:
    return YAML(typ="safe").load(text)


def test_the_paper_preset_is_the_papers_setting_and_keeps_every_comment(tmp_path):
    done = apply(tmp_path, "paper")
    assert done.returncode == 0, done.stderr
    after = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    assert comments(after) == comments(COMMITTED)
    params = load_params(tmp_path / "params.yaml")
    assert params.download["nyu"].source == params.download["make3d"].source == "official"
    assert (params.network.width, params.network.depth_scale_m) == (1.0, 1.0)
    train = params.train
    assert (train.epochs, train.batch_size, train.size_px) == (500, 4, 256)
    assert (train.geometry, train.hflip, train.val_fraction) == ("resize", 0.5, 0.0)
    assert (train.optimizer, train.lr, train.schedule) == ("adam", 2e-4, "step")
    assert (train.betas, params.network.dropout) == ([0.5, 0.999], 0.5)
    assert (train.lr_milestone, train.lr_gamma, train.checkpoint) == (0.6, 0.1, "last")
    assert f"train.epochs: {CONTENT['train']['epochs']} -> 500" in done.stdout


def test_the_small_preset_is_the_network_of_the_variant_pretrained(tmp_path):
    assert apply(tmp_path, "small").returncode == 0
    params = load_params(tmp_path / "params.yaml")
    assert params.variant("full") == params.variant("pretrained")
    for source in (params.download["nyu"].source, params.download["make3d"].source):
        assert source == "official"


def leaves(tree: dict, *path: str) -> dict[tuple[str, ...], Any]:
    """The values of nested mappings by their keys."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        inner = leaves(value, *path, key) if isinstance(value, dict) else {(*path, key): value}
        found |= inner
    return found


@pytest.mark.parametrize("preset", ["paper", "paper_sgd", "small"])
def test_a_preset_changes_its_keys_and_no_others(tmp_path, preset):
    apply(tmp_path, preset)
    after = leaves(content((tmp_path / "params.yaml").read_text()))
    assert after == leaves(CONTENT) | leaves(CONTENT["presets"][preset])


@pytest.mark.parametrize("preset", ["paper", "paper_sgd", "small"])
def test_every_preset_leaves_a_valid_file(tmp_path, preset):
    assert apply(tmp_path, preset).returncode == 0
    params = load_params(tmp_path / "params.yaml")
    for name in params.variants:
        params.variant(name)


@pytest.mark.parametrize(
    ("preset", "text", "named"),
    [
        ("papre", COMMITTED, "papre"),
        ("bad", with_value("presets.bad", {"train": {"lrr": 1.0}}), "train.lrr"),
        ("bad", with_value("presets.bad", {"nowhere": {"lr": 1.0}}), "nowhere"),
        ("bad", with_value("presets.bad", {"train": {"lr": {"high": 1.0}}}), "train.lr.high"),
        ("bad", with_value("presets.bad", {"train": {"epochs": -1}}), "train.epochs"),
        ("bad", with_value("presets.bad", {"train": {"lr": "fast"}}), "train.lr"),
    ],
    ids=["name", "key", "section", "below a value", "range", "type"],
)
def test_a_preset_with_a_mistake_is_one_line_and_changes_nothing(tmp_path, preset, text, named):
    done = apply(tmp_path, preset, text=text)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and named in lines[0], done.stderr
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_preset_may_set_a_mapping_where_the_file_has_null(tmp_path):
    jpeg = {"quality": 90, "subsampling": "4:2:0"}
    text = with_value("presets.jpeg", {"cameras": {"paper": {"jpeg": jpeg}}})
    assert content(text)["cameras"]["paper"]["jpeg"] is None
    done = apply(tmp_path, "jpeg", text=text)
    assert done.returncode == 0, done.stderr
    after = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    assert content(after)["cameras"]["paper"]["jpeg"] == jpeg
    assert comments(after) == comments(text)


def test_a_preset_prints_no_password(tmp_path):
    text = COMMITTED.replace("source: sample", "source: https://me:hunter2@host/nyu", 1)
    text = text.replace("nyu: {source: official}", "nyu: {source: sample}", 1)
    done = apply(tmp_path, "paper", text=text)
    assert "hunter2" not in done.stdout and "host/nyu" in done.stdout
