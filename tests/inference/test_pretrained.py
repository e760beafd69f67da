"""The network that comes with the project: its file, its figures, and its use."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from inference.test_photo import command, photo, weights
from numpy.typing import NDArray
from PIL import Image

from hded.blur import gaussian_gather
from hded.blur.holes import fill_holes
from hded.common import pretrained
from hded.common.errors import HDEDError
from hded.datasets.nyu import LABELED
from hded.inference import load_predictor
from hded.inference.photo import estimate
from hded.inference.view import view_of
from hded.metrics.errors import psnr
from hded.network import HDEDNet
from hded.network.files import halved, read_network
from hded.network.weights import find_weights, load_whole
from hded.optics.photograph import StatedLens
from hded.sample.write import BORDER_PX, write_nyu
from pipeline import pretrained as publisher

LENS = StatedLens(focal_length_m=0.05, f_number=2.0, focus_distance_m=2.0, sensor_width_m=0.036)
# of the sample's rooms, seed 1, through LENS: what the model card states
ROOMS, RMSE_OVER_MEDIAN, GAIN_DB = 6, 0.77, 0.89


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the project's, whose network is damaged."""
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    monkeypatch.setattr(pretrained, "DIGESTS", tmp_path / "SHA256SUMS")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {pretrained.NETWORKS['hded']}\n")
    return tmp_path


def rmse(found: NDArray | float, truth: NDArray) -> float:
    return float(np.square(found - truth).mean() ** 0.5)


def test_every_network_is_the_published_one_small_and_documented() -> None:
    assert set(pretrained.digests()) == set(pretrained.NETWORKS.values())
    for name, file in pretrained.NETWORKS.items():
        path = pretrained.find(name)
        assert path is not None and path.stat().st_size <= publisher.LARGEST_BYTES
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        assert pretrained.digests()[file] in card
        header, state = read_network(path)
        assert header.data["dataset"] == "nyu" and header.cameras and header.scale
        assert "/" not in json.dumps(header.data)  # no place on anybody's disk
        matrices = [t for t in state.values() if t.ndim > 1]
        assert {t.dtype for t in matrices} == {torch.float16}
        assert f"{sum(t.numel() for t in state.values()):,}" in card
    for licence in ("LICENSE", "LICENSE-APACHE"):
        assert (pretrained.FOLDER / licence).is_file()


def test_a_name_that_is_none_is_a_path() -> None:
    assert pretrained.find("weights.safetensors") is None
    assert find_weights("hded", "efficientnet_lite0", Path()) == pretrained.find("hded")


def test_a_training_starts_from_the_whole_network_in_single_precision() -> None:
    path = find_weights("hded", "efficientnet_lite0", Path())
    header, state = read_network(path)
    network = HDEDNet(**header.network)
    assert load_whole(network, header.network, path).loaded == len(state)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_damaged_or_missing_network_is_one_line(folder: Path) -> None:
    with pytest.raises(HDEDError, match="cannot be read"):
        pretrained.find("hded")
    (folder / pretrained.NETWORKS["hded"]).write_bytes(b"cut short")
    with pytest.raises(HDEDError, match=r"is damaged .* install hded again"):
        pretrained.find("hded")
    done = command("predict", "a.png")
    assert done.returncode == 2 and re.fullmatch(r"error: .* is damaged .*\n", done.stderr)


def test_a_published_network_is_found_and_too_large_a_one_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = weights(folder / "w.safetensors")
    monkeypatch.setattr("sys.argv", ["pipeline.pretrained", str(given), "hded"])
    publisher.main()
    path = pretrained.find("hded")
    assert path is not None and path.parent == folder
    before = path.read_bytes()
    monkeypatch.setattr(publisher, "LARGEST_BYTES", 1000)
    with pytest.raises(HDEDError, match="at most 1000 are published"):
        publisher.main()
    assert path.read_bytes() == before and pretrained.find("hded") == path


def test_half_precision_holds_weights_and_refuses_what_it_cannot(tmp_path: Path) -> None:
    state = read_network(weights(tmp_path / "w.safetensors"))[1]
    for name, tensor in halved(state).items():
        if tensor.ndim > 1:
            assert tensor.dtype == torch.float16
            torch.testing.assert_close(tensor.float(), state[name], rtol=1e-3, atol=1e-7)
        else:
            assert torch.equal(tensor, state[name])
    with pytest.raises(HDEDError, match="a: too large for half precision"):
        halved({"a": torch.full((1, 1), 1e6)})


def test_predict_needs_nothing_but_a_photograph(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(90, 120)).save("a.png")
    done = command("predict", "a.png", "--focus-distance-m", 1.5)
    assert done.returncode == 0, done.stderr
    told = json.loads(Path("hded-results/a.json").read_text())
    assert told["checkpoint"] == "hded" and told["depth_unit"] == "focus distance"
    lens = ("--focal-length-mm", 50, "--f-number", 2, "--sensor-width-mm", 36)
    done = command("predict", "a.png", "--focus-distance-m", 1.5, *lens)
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("hded-results/a.json").read_text())["depth_unit"] == "m"
    with Image.open("hded-results/a_depth.png") as depth:
        assert np.asarray(depth).shape == (90, 120)
    assert Path("hded-results/a_confidence.png").is_file()


def test_its_figures_on_the_sample_are_those_of_its_card(tmp_path: Path) -> None:
    write_nyu(tmp_path, train=1, test=ROOMS, seed=1)
    with h5py.File(tmp_path / LABELED) as mat:
        images, depths = (np.asarray(mat[name])[1:] for name in ("images", "depths"))
    path = pretrained.find("hded")
    assert path is not None
    predictor, errors, gains = load_predictor(path), [], []
    constant_m = np.median(depths[depths > 0])
    inside = (slice(BORDER_PX, -BORDER_PX), slice(BORDER_PX, -BORDER_PX))
    for image, depth in zip(images, depths, strict=True):
        sharp, depth_m = image.transpose(2, 1, 0)[inside], depth.T[inside]
        lens = LENS.lens(max(sharp.shape), 29.0, "quarter")
        blurred = gaussian_gather(sharp, lens.sigma_px(fill_holes(depth_m)))
        taken = np.rint(blurred * 255).astype(np.uint8)
        outputs = estimate(predictor, taken, view=view_of(predictor, taken.shape[:2], LENS))
        assert outputs.depth is not None and outputs.all_in_focus is not None
        known = depth_m > 0
        truth = depth_m[known]
        errors.append([rmse(outputs.depth[known], truth), rmse(constant_m, truth)])
        gains.append(psnr(outputs.all_in_focus, sharp) - psnr(taken, sharp))
    found, trivial = np.mean(errors, 0)
    assert found / trivial == pytest.approx(RMSE_OVER_MEDIAN, abs=0.03)
    assert np.mean(gains) == pytest.approx(GAIN_DB, abs=0.1)
