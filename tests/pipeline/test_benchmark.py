"""The benchmark's baselines blur what they say, and its file becomes the report's table."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch

from hded.blur import gaussian_gather_reference
from hded.common.errors import HDEDError
from hded.network import HDEDNet
from hded.report.tables.speed import build_speed
from pipeline.benchmark import blur, depthwise, evaluation, photographs, stages, training
from pipeline.lib import provenance


def frame(size: tuple[int, int] = (21, 34)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    sigma = np.linspace(0, 4.2, size[0] * size[1]).reshape(size).astype(np.float32)
    return rng.integers(0, 256, (*size, 3), np.uint8), sigma


def test_the_numpy_loop_is_exact() -> None:
    rgb, sigma = frame()
    out = blur.numpy_loop(rgb, sigma)
    np.testing.assert_allclose(out, gaussian_gather_reference(rgb, sigma), rtol=0, atol=1e-5)


def test_the_stack_of_quantised_sigmas_is_near_and_not_exact() -> None:
    rgb, sigma = frame()
    error = np.abs(blur.scipy_stack(rgb, sigma) - gaussian_gather_reference(rgb, sigma))
    assert 1e-4 < error.max() < 0.2 and error.mean() < 0.005
    levels = np.linspace(0, 7.25, blur.SCIPY_SIGMAS).astype(np.float32)
    flat = np.full(sigma.shape, levels[20])
    exact = gaussian_gather_reference(rgb, flat)
    np.testing.assert_allclose(blur.scipy_stack(rgb, flat), exact, rtol=0, atol=1e-5)


def test_a_failing_stage_is_named_with_its_own_words(tmp_path) -> None:
    with pytest.raises(HDEDError, match=r"pipeline\.convert.*params\.yaml"):
        stages.run_measured(tmp_path, "-m", "pipeline.convert", "--dataset", "nyu")


def test_memory_is_that_of_the_process(tmp_path) -> None:
    small = stages.run_measured(tmp_path, "-c", "pass")[1]
    large = stages.run_measured(tmp_path, "-c", "x = b'1' * 300_000_000")[1]
    assert 280 < large - small < 330


@pytest.mark.slow
def test_training_is_measured_step_by_step(make_stores, monkeypatch) -> None:
    """The paper's network at a sixteenth of its width, on crops of 32 px."""
    data = make_stores(splits=("train",) * 8 + ("test",))
    monkeypatch.setattr(training, "HDEDNet", partial(HDEDNet, width=1 / 16))
    monkeypatch.setattr(training, "SIZE_PX", 32)
    section = training.measure(data.scenes, data.defocused, torch.device("cpu"))
    rows = {row["name"]: row for row in section["rows"]}
    ours = {"ours, float32", "ours, bf16", "ours, bf16, streamed"}
    assert set(rows) == {section["baseline"], *ours}
    for row in rows.values():
        assert row["seconds"] > 0 and 0 <= row["data_share"] < 1
        assert row["frames_per_s"] == pytest.approx(1 / row["seconds"])
    assert rows[section["baseline"]]["ratio"] == 1
    monkeypatch.setattr(training, "SMALL_SIZE_PX", 32)
    section = training.measure_streaming(data.scenes, data.defocused, torch.device("cpu"))
    assert [row["name"] for row in section["rows"]] == ["memory: resident", "memory: stream"]
    assert section["rows"][0]["ratio"] == 1 and all(row["seconds"] > 0 for row in section["rows"])


def test_plain_depthwise_convolutions_give_the_same_images() -> None:
    arguments = {"encoder": "efficientnet_lite0", "decoder": "bilinear", "width": 0.25}
    network, plain = HDEDNet(**arguments).eval(), HDEDNet(**arguments).eval()
    state, image = network.state_dict(), torch.rand(1, 3, 64, 96) * 2 - 1
    depthwise.use_plain_depthwise(plain)
    plain.load_state_dict(
        {k.replace("_depthwise_conv.", "_depthwise_conv.1."): v for k, v in state.items()}
    )
    assert len(plain.state_dict()) == len(state)
    for head, output in plain(image).items():
        torch.testing.assert_close(output, network(image)[head])


def test_a_photograph_is_measured_in_each_way(monkeypatch) -> None:
    slim = {name: {**arguments, "width": 1 / 16} for name, arguments in evaluation.NETWORKS.items()}
    monkeypatch.setattr(photographs, "NETWORKS", slim)
    section = photographs.measure(torch.device("cpu"), (300, 1280))
    names = [row["name"] for row in section["rows"]]
    assert len(names) == 4 and names[-1] == "refocused" and section["baseline"] in names
    assert all(row["seconds"] > 0 for row in section["rows"])


def test_the_committed_file_is_a_table(root) -> None:
    table = build_speed(root / "reports/benchmark.json")
    assert table is not None
    sections = json.loads((root / "reports/benchmark.json").read_text())["sections"]
    assert [part.title for part in table.parts] == [section["title"] for section in sections]
    for section in sections:
        rows = {row["name"]: row for row in section["rows"]}
        assert rows[section["baseline"]]["ratio"] == 1
        for row in rows.values():
            expected = rows[section["baseline"]]["seconds"] / row["seconds"]
            assert row["ratio"] == pytest.approx(expected)


def test_a_figure_names_what_it_was_taken_on() -> None:
    assert provenance.versions("numpy")["numpy"] == np.__version__
    assert provenance.versions()["python"] == sys.version.split()[0]
    assert "CPU threads" in provenance.hardware(torch.device("cpu"))
