"""Raw files: official by their digests, drawn once, and listed wherever a link leads."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hded.common.files import read_json, write_json
from hded.config.schema import Download
from hded.sample.write import WRITERS
from pipeline import inputs
from pipeline.lib import raw, stage

CONTENT = {"nyu_depth_v2_labeled.mat": b"frames", "splits.mat": b"splits"}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    """A folder of files with known digests, given as a local source."""
    monkeypatch.chdir(tmp_path)
    official = []
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        official.append(
            {"name": name, "urls": ["http://a.b/c"], "size": len(content), "sha256": sha256}
        )
    return Download.model_validate({"source": str(tmp_path), "official": official})


def digests(folder: Path) -> dict[str, str]:
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in CONTENT}
    (folder / stage.RAW).mkdir(parents=True, exist_ok=True)
    write_json(folder / stage.RAW / "nyu.json", found)
    return found


def test_official_files_are_official_wherever_they_lie(tmp_path, entry, capsys):
    raw.report_others(entry, tmp_path, digests(tmp_path))
    assert capsys.readouterr().err == ""
    assert raw.source_kind("nyu", entry) == "official"


@pytest.mark.parametrize(
    ("content", "words"), [(b"other bytes", "11 bytes, the official file 6"), (b"spl1ts", "sha256")]
)
def test_another_file_is_named_and_makes_the_source_local(tmp_path, entry, capsys, content, words):
    (tmp_path / "splits.mat").write_bytes(content)
    raw.report_others(entry, tmp_path, digests(tmp_path))
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "splits.mat") in line and words in line
    assert raw.source_kind("nyu", entry) == "local"


def test_files_without_a_known_digest_are_local(tmp_path, entry):
    digests(tmp_path)
    assert entry.official is not None
    unknown = [file.model_copy(update={"sha256": None}) for file in entry.official]
    assert raw.source_kind("nyu", entry.model_copy(update={"official": unknown})) == "local"


def test_two_processes_draw_one_sample_once(tmp_path, monkeypatch):
    """The other one waits, and finds it drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    drawn = []

    def draw(folder: Path, **size: int) -> None:
        folder.mkdir()
        drawn.append(folder)
        time.sleep(0.2)
        (folder / "frames").write_text(f"{size}")

    monkeypatch.setitem(WRITERS, "nyu", draw)
    monkeypatch.setattr(raw.fingerprint, "imported_modules", lambda name: {})
    entry = Download.model_validate({"source": "sample", "sample": {"train": 2, "test": 1}})
    # a lock of its own for each thread, as processes have
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: raw.provide("nyu", entry), range(4)))
    assert len(drawn) == len(folders) == 1
    assert (folders.pop() / "frames").read_text() == "{'train': 2, 'test': 1, 'seed': 1}"
    for train in (3, 4):
        size = {"train": train, "test": 1}
        raw.provide("nyu", Download.model_validate({"source": "sample", "sample": size}))
    assert sum(path.is_dir() for path in (tmp_path / stage.SAMPLES / "nyu").iterdir()) == 2


def test_files_in_linked_folders_are_listed(tmp_path, monkeypatch):
    """A change of one runs the stages again; a link that leads back does not run forever."""
    project, own, elsewhere = (tmp_path / name for name in ("project", "own", "elsewhere"))
    for folder in (project, own / "depth", elsewhere):
        folder.mkdir(parents=True)
    for path in (own / "depth/a.png", elsewhere / "a.png", elsewhere / ".DS_Store"):
        path.write_bytes(b"123")
    (own / "rgb").symlink_to(elsewhere)
    (own / "depth/up").symlink_to(own)
    params = YAML(typ="safe").load((Path(__file__).parents[2] / "params.yaml").read_text("utf-8"))
    params["run"]["datasets"] = ["own"]
    params["download"]["own"] = {
        "source": "folder", "path": str(own), "depth_unit_m": 0.001, "max_depth_m": 10.0,
    }  # fmt: skip
    monkeypatch.chdir(project)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr("sys.argv", ["inputs"])
    with Path("params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)
    inputs.main()
    listed = read_json(stage.INPUTS / "own.json")
    assert set(listed) == {"depth/a.png", "rgb/a.png"}
    assert listed["rgb/a.png"][0] == 3
