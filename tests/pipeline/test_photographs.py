"""A network that was trained on renderings, tested on photographs, in one real `dvc repro`."""

import json
import shutil
import sys
from collections.abc import Iterator
from subprocess import CompletedProcess

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, shift
from support.clones import Clone

from hded.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SIZE = (96, 128)
HALF = ("without_rgb", "without_depth")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = Clone(tmp_path_factory.mktemp("photographs") / "hded")
    folder = clone.root.parent / "pictures" / "test"
    for kind in ("rgb", "depth", "defocused"):
        (folder / kind).mkdir(parents=True)
    for i in range(4):
        rng = np.random.default_rng(i)
        image = sum(
            gaussian_filter(rng.standard_normal((*SIZE, 3)), (s, s, 0)) * s for s in (1, 3, 9)
        )
        image = 40 + 170 * (image - image.min()) / (image.max() - image.min())  # pyright: ignore
        blurred = shift(gaussian_filter(image, (1.5, 1.5, 0)), (2, -1, 0), order=1, mode="nearest")
        Image.fromarray(image.astype(np.uint8)).save(folder / "rgb" / f"p{i}.jpg", quality=95)
        Image.fromarray(blurred.astype(np.uint8)).save(folder / "defocused" / f"p{i}.png")
        depth = np.full(SIZE, 1500 + 500 * i, np.uint16)
        Image.fromarray(depth).save(folder / "depth" / f"p{i}.png")
    for missing in ("rgb", "depth"):
        copy = clone.root.parent / f"without_{missing}"
        shutil.copytree(folder.parent, copy, ignore=shutil.ignore_patterns(missing))
    source = {"source": "folder", "path": str(folder.parent)}
    clone.change(
        {
            "download.real": {**source, "max_residual": 0.05},
            "download.real_as_taken": source,
            **{f"download.{n}": {**source, "path": str(folder.parents[1] / n)} for n in HALF},
            "cameras.mine": {
                "focal_length_mm": 35, "f_number": 2.8, "focus_distance_m": 1.67,
                "sensor_width_mm": 23.6, "photographs": True,
            },
            "run.datasets": ["nyu", "real", "real_as_taken", *HALF],
            "run.cameras": ["mine"],
            "defocus.camera": "mine",
            "variants.full.train_on": "nyu",
        }
    )  # fmt: skip
    clone.run("dvc", "repro", timeout_s=900)
    yield clone


def metrics(clone: Clone, dataset: str) -> dict:
    return json.loads((clone.root / f"data/evaluated/{dataset}/full/0/metrics.json").read_text())


def test_the_photographs_are_what_the_network_gets(clone: Clone) -> None:
    frames = open_store(clone.root / "data/frames/real")
    pictures = open_store(clone.root / "data/defocused/real/mine")
    for i in range(len(frames)):
        np.testing.assert_array_equal(pictures.read("defocused", i), frames.read("defocused", i))
    assert frames.frames["shift_down_px"].tolist() == pytest.approx([2] * 4, abs=0.1)
    assert pictures.attributes["camera"]["renderer"] == "none: photographs"
    # another dataset is rendered by the same camera
    nyu = open_store(clone.root / "data/defocused/nyu/mine")
    assert nyu.attributes["camera"]["renderer"] == "gather"


def test_scores_are_there_with_and_without_registration(clone: Clone) -> None:
    inputs = {
        d: metrics(clone, d)["all_in_focus"]["native"]["input"]["psnr"]
        for d in ("real", "real_as_taken")
    }
    assert inputs["real"] > inputs["real_as_taken"] + 2
    assert set(metrics(clone, "real")["depth"]) == {"headline", "pooled", "inside", "near"}
    # there is no training frame: the constant is the median of what trained the network
    table = pd.read_csv(clone.root / "data/evaluated/real/full/0/depth.csv")
    assert len(table[table["method"] == "median"]) > 0


def test_tables_and_page_say_what_was_trained_and_tested(clone: Clone) -> None:
    table = (clone.root / "reports/tables/table4.md").read_text()
    assert "trained on nyu" in table and "renderer none: photographs" in table
    assert "real (own images)" in table
    assert "real\\_as\\_taken" in table or "real_as_taken" in table
    page = (clone.root / "reports/index.html").read_text()
    assert "none: photographs" in page


def test_a_folder_that_lacks_one_truth_is_scored_by_the_other(clone: Clone) -> None:
    assert metrics(clone, "without_rgb")["all_in_focus"] == {}
    assert metrics(clone, "without_rgb")["depth"]["headline"]["network"]["rmse"] > 0
    whole, half = (metrics(clone, d)["all_in_focus"] for d in ("real_as_taken", "without_depth"))
    assert half["native"]["input"] == whole["native"]["input"]
    table = (clone.root / "reports/tables/table4.md").read_text()
    for name in HALF:
        assert name.replace("_", "\\_") in table or name in table


def evaluate(clone: Clone, dataset: str, how: dict) -> CompletedProcess[str]:
    """Evaluate with other settings, which are taken back afterwards."""
    content = (clone.root / "params.yaml").read_bytes()
    clone.change({"variants.full.evaluate": how})
    cell = ("--dataset", dataset, "--variant", "full", "--seed", "0")
    try:
        return clone.run(sys.executable, "-m", "pipeline.evaluate", *cell, check=False)
    finally:
        (clone.root / "params.yaml").write_bytes(content)


def test_another_focus_is_refused_where_there_is_nothing_to_blur(clone: Clone) -> None:
    done = evaluate(clone, "without_rgb", {"focus_distance_m": 4.0})
    assert done.returncode == 2 and "hold no true all-in-focus, without which" in done.stderr


def test_a_network_of_defocused_images_that_is_tested_on_sharp_ones_is_a_control(
    clone: Clone,
) -> None:
    done = evaluate(clone, "real", {"network_input": "sharp"})
    assert done.returncode == 0, done.stderr
    record = json.loads((clone.root / "data/evaluated/real/full/0/evaluation.json").read_text())
    assert "tested on all-in-focus images" in record["control"]


def test_what_was_measured_is_kept_until_mlflow_has_it(clone: Clone) -> None:
    damaged = clone.root.parent / "damaged.db"
    damaged.write_text("This is a text of some length, and no database.\n")
    clone.variables["MLFLOW_TRACKING_URI"] = f"sqlite:///{damaged}"
    done = evaluate(clone, "real", {})
    assert done.returncode == 2, done.stderr
    kept = list((clone.root / "data/unfinished/evaluate/real/full/0").rglob("*.json"))
    dates = [path.stat().st_mtime_ns for path in kept]
    assert kept
    done = evaluate(clone, "real", {})
    assert done.returncode == 2 and [path.stat().st_mtime_ns for path in kept] == dates
    del clone.variables["MLFLOW_TRACKING_URI"]
    done = evaluate(clone, "real", {})
    assert done.returncode == 0, done.stderr
    assert not (clone.root / "data/unfinished/evaluate").exists()
