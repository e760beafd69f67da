"""One network tested on another dataset and by another camera, in one real `dvc repro`."""

import json
from collections.abc import Iterator

import pytest
from support.clones import Clone

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = Clone(tmp_path_factory.mktemp("transfer") / "hded")
    noisy = {
        "focal_length_mm": 35, "f_number": 2.8, "focus_distance_m": 3.0, "sensor_width_mm": 23.6,
        "noise": {"shot": 0.001, "read": 0.01}, "jpeg": {"quality": 75},
    }  # fmt: skip
    clone.change(
        {
            "cameras.noisy": noisy,
            "run.cameras": ["paper", "noisy"],
            "variants.elsewhere": {
                "description": "the same network, elsewhere", "train_on": "nyu",
                "evaluate": {"camera": {"nyu": "noisy", "make3d": "paper"}},
            },
            "run.variants": ["full", "elsewhere"],
        }
    )  # fmt: skip
    clone.run("dvc", "repro", timeout_s=900)
    yield clone


def record(clone: Clone, dataset: str, variant: str, name: str) -> dict:
    place = "trained" if name == "run.json" else "evaluated"
    return json.loads((clone.root / f"data/{place}/{dataset}/{variant}/0/{name}").read_text())


def test_it_is_one_training(clone: Clone) -> None:
    runs = {
        (dataset, variant): record(clone, dataset, variant, "run.json")
        for dataset in ("nyu", "make3d")
        for variant in ("full", "elsewhere")
    }
    same = [runs["nyu", "full"], runs["nyu", "elsewhere"], runs["make3d", "elsewhere"]]
    assert len({run["fit"] for run in same}) == len({run["wall_s"] for run in same}) == 1
    assert {run["dataset"] for run in same} == {"nyu"}
    assert runs["make3d", "full"]["fit"] != same[0]["fit"]
    paths = [clone.root / f"data/trained/{d}/elsewhere/0" for d in ("nyu", "make3d")]
    assert len({(path / "weights.safetensors").read_bytes() for path in paths}) == 1


def test_each_is_measured_on_its_own_images(clone: Clone) -> None:
    found = {d: record(clone, d, "elsewhere", "evaluation.json") for d in ("nyu", "make3d")}
    assert found["nyu"]["cameras"][0]["name"] == "noisy"
    assert found["nyu"]["control"] == "trained through paper"
    assert found["make3d"]["cameras"][0]["name"] == "paper" and not found["make3d"]["control"]
    assert found["make3d"]["truth"] == record(clone, "make3d", "full", "evaluation.json")["truth"]
    # the noisy camera's images score less by themselves
    inputs = {
        variant: record(clone, "nyu", variant, "metrics.json")["all_in_focus"]["native"]["input"]
        for variant in ("full", "elsewhere")
    }
    assert inputs["elsewhere"]["psnr"] != inputs["full"]["psnr"]


def test_the_tables_say_both(clone: Clone) -> None:
    table = (clone.root / "reports/tables/table4.md").read_text()
    assert "trained on nyu" in table
    assert "trained through paper" in (clone.root / "reports/tables/controls.md").read_text()
    cameras = (clone.root / "reports/tables/cameras.md").read_text()
    assert "JPEG 75 at 4:2:0" in cameras or "noisy" in cameras


def test_the_next_repro_does_nothing(clone: Clone) -> None:
    assert not clone.would_run()
