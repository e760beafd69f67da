"""dvc.lock survives a kill: a whole one is copied before `dvc repro`, one cut short is replaced."""

from pathlib import Path

import pytest
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from support.imports import ROOT

from hded.common.errors import HDEDError
from pipeline import lock

WHOLE = """\
schema: '2.0'
stages:
  download:
    cmd: echo
    deps:
    - path: source.py
      hash: md5
      md5: 03b9b244454f71bdcbd14f199af611a1
      size: 245
    params:
      params.yaml:
        run.datasets:
        - nyu
    outs:
    - path: stores
      hash: md5
      md5: f4a04351efe9f7efb93d8e7e92381e75.dir
      size: 244224
      nfiles: 24
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    return tmp_path


def test_a_lock_cut_anywhere_is_replaced_or_is_one_that_dvc_reads(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = Repo.init(no_scm=True, force=True)
    path, copy = folder / "dvc.lock", folder / lock.COPY
    path.write_text(WHOLE)
    lock.main()
    left = []
    for cut in range(len(WHOLE)):
        path.write_text(WHOLE[:cut])
        lock.main()
        replaced = "cut short" in capsys.readouterr().out
        assert path.read_text() == (WHOLE if replaced else WHOLE[:cut])
        assert Lockfile(repo, "dvc.lock").load()  # raises for what DVC does not read
        left += [] if replaced else [cut]
        copy.write_text(WHOLE)
    # a lock that lacks whole lines is a state that DVC had: the stages that it lacks have not run
    assert left and all(WHOLE[cut - 1] == "\n" for cut in left)


def test_without_a_copy_it_is_removed(folder: Path) -> None:
    (folder / "dvc.lock").write_text("schema: '2")
    lock.main()
    assert not (folder / "dvc.lock").exists()
    lock.main()
    assert list((folder / ".dvc/tmp").iterdir()) == []


def test_a_whole_lock_is_left_alone_and_copied(folder: Path) -> None:
    text = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    (folder / "dvc.lock").write_text(text)
    (folder / lock.COPY).write_text("old")
    lock.main()
    assert (folder / "dvc.lock").read_text() == (folder / lock.COPY).read_text() == text


@pytest.mark.parametrize(("text", "stays"), [('{"read": {}, "write": {}}', True), ('{"re', False)])
def test_a_list_of_files_in_use_that_was_cut_short_is_removed(
    folder: Path, text: str, stays: bool
) -> None:
    path = folder / lock.IN_USE
    path.write_text(text)
    lock.main()
    assert path.exists() == stays


def test_conflict_markers_are_told_and_the_file_stays(folder: Path) -> None:
    path = folder / "dvc.lock"
    text = f"<<<<<<< HEAD\n{WHOLE}=======\n{WHOLE}>>>>>>> other\n"
    path.write_text(text)
    with pytest.raises(HDEDError, match="conflict markers of a merge"):
        lock.main()
    assert path.read_text() == text
