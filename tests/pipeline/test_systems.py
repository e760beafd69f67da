"""Every system of Table IV in one real `dvc repro`, tiny: trained, restored, measured, reported."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from support.clones import Clone

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = Clone(tmp_path_factory.mktemp("systems") / "hded")
    clone.run("python", "-m", "pipeline.preset", "systems")
    clone.change({"train.epochs": 1})
    clone.run("dvc", "repro", timeout_s=3000)
    clone.commit("results")
    yield clone


def variants(clone: Clone) -> list[str]:
    return sorted(path.name for path in (clone.root / "data/evaluated/nyu").iterdir())


def record(clone: Clone, variant: str, name: str) -> dict:
    place = "trained" if name == "run.json" else "evaluated"
    return json.loads((clone.root / f"data/{place}/nyu/{variant}/0/{name}").read_text())


def test_every_system_is_measured(clone: Clone) -> None:
    assert len(variants(clone)) > 20
    for variant in variants(clone):
        evaluation = record(clone, variant, "evaluation.json")
        metrics = record(clone, variant, "metrics.json")
        for head in evaluation["heads"]:
            assert any("network" in methods for methods in metrics[head].values()), variant


def test_systems_that_differ_in_the_test_alone_share_one_training(clone: Clone) -> None:
    for group in (
        ("depth_only", "deconvolution", "deconvolution_true_depth"),
        ("denoiser", "denoiser_true_depth"),
    ):
        assert len({record(clone, variant, "run.json")["fit"] for variant in group}) == 1
        depths = [record(clone, v, "metrics.json")["depth"]["headline"]["network"] for v in group]
        assert all(depth == depths[0] for depth in depths)


def test_controls_are_those_whose_test_differs_from_their_training(clone: Clone) -> None:
    controls = {v for v in variants(clone) if record(clone, v, "evaluation.json")["control"]}
    assert controls == {"deconvolution_true_depth", "denoiser_true_depth"}


def test_each_reads_the_images_of_its_own_cameras(clone: Clone) -> None:
    cameras = {
        v: [camera["name"] for camera in record(clone, v, "evaluation.json")["cameras"]]
        for v in variants(clone)
    }
    assert cameras["full"] == ["paper"] and cameras["d3net_camera"] == ["d3net"]
    assert cameras["two_apertures"] == ["paper", "paper_f8"]
    assert cameras["sharp_input"] == cameras["self_supervised"] == ["all in focus"]


def test_a_further_camera_trains_and_evaluates_nothing_again(clone: Clone) -> None:
    before = (clone.root / "params.yaml").read_bytes()
    used = ["paper", "paper_f8", "paper_4m", "paper_foci", "d3net"]
    clone.change({"run.cameras": [*used, "syndof"]})
    try:
        output = clone.run("dvc", "repro").stdout
    finally:
        (clone.root / "params.yaml").write_bytes(before)
    assert "Running stage 'defocus@nyu-syndof'" in output
    assert "Running stage 'train" not in output and "Running stage 'evaluate" not in output


def test_the_tables_name_each_systems_cameras(clone: Clone) -> None:
    table = pd.read_csv(clone.root / "reports/tables/table4.csv", dtype=str)
    assert {"two_apertures", "sharp_input", "deconvolution"} <= set(table["row"])
    text = (clone.root / "reports/tables/table4.md").read_text(encoding="utf-8")
    assert r"Camera (d3net\_camera)" in text


def test_the_page_opens_with_all_of_them(clone: Clone) -> None:
    page: Path = clone.root / "reports/index.html"
    assert page.stat().st_size < 12_000_000
    assert "self_supervised" in page.read_text(encoding="utf-8")
