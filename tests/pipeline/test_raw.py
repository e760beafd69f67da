"""Files of a user's folder are the official ones by their digests, not by their sizes."""

import hashlib
from pathlib import Path

import pytest

from hded.common.files import write_json
from hded.config.schema import Download
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
