"""The registry of datasets: what a further dataset takes."""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from support.imports import ROOT

from hded.config.schema import OFFICIAL
from hded.datasets import DATASETS, Dataset, RawFrame, RawFrames
from hded.evaluation.protocols import depth_protocols
from hded.sample.write import WRITERS
from hded.store import open_store
from pipeline import convert, download

SIZE = (6, 8)


def test_every_official_dataset_has_a_title_and_a_reader() -> None:
    assert list(DATASETS) == list(OFFICIAL)
    assert all(name == dataset.name for name, dataset in DATASETS.items())


def test_params_yaml_lists_the_files_of_every_dataset() -> None:
    entries = YAML(typ="safe").load(ROOT / "params.yaml")["download"]
    listed = {name: tuple(f["name"] for f in entries[name]["official"]) for name in DATASETS}
    assert listed == {name: dataset.files for name, dataset in DATASETS.items()}


def write_tiny(dest: Path, *, train: int, test: int, seed: int) -> None:
    dest.mkdir(parents=True)
    rgb = np.random.default_rng(seed).integers(0, 256, (train + test, *SIZE, 3), np.uint8)
    np.save(dest / "tiny.npy", rgb)


def open_tiny(folder: Path, stack: ExitStack) -> RawFrames:
    rgb = np.load(folder / "tiny.npy")
    names = [f"{i}" for i in range(len(rgb))]
    split = ["train"] * (len(rgb) - 1) + ["test"]
    return RawFrames(
        format="tiny",
        frames=pd.DataFrame({"frame": names, "split": split, "scene": ""}),
        size=SIZE,
        image_width_px=SIZE[1],
        max_depth_m=5.0,
        has_raw_valid=False,
        read=lambda i: RawFrame(rgb=rgb[i], depth=np.ones(SIZE, np.float32)),
    )


def test_a_third_dataset_takes_a_reader_a_title_and_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "tiny", Dataset(name="tiny", files=("tiny.npy",), open=open_tiny))
    monkeypatch.setitem(OFFICIAL, "tiny", "Tiny")
    monkeypatch.setitem(WRITERS, "tiny", write_tiny)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["run"]["datasets"] = ["tiny"]
    params["download"]["tiny"] = {
        "source": "sample", "sample": {"train": 3, "test": 1, "seed": 7}
    }  # fmt: skip
    yaml.dump(params, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stage", "--dataset", "tiny"])
    download.main()
    (made,) = (tmp_path / "data/sample/tiny").glob("*/tiny.npy")
    assert list(json.loads((tmp_path / "data/raw/tiny.json").read_text())) == ["tiny.npy"]
    convert.main()
    store = open_store(tmp_path / "data/frames/tiny")
    assert len(store) == 4
    assert store.attributes["format"] == "tiny"
    np.testing.assert_array_equal(store.read("rgb", 2), np.load(made)[2])
    assert [p.name for p in depth_protocols("tiny", 5.0)] == ["headline", "pooled"]
    marker = json.loads((tmp_path / "data/frames/tiny/store.json").read_text())
    assert marker["attributes"]["max_depth_m"] == 5.0
