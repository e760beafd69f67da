"""dvc.lock survives a kill: each stage keeps a copy, and what was cut short is put back."""

from pathlib import Path

import pytest
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from support.imports import ROOT

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
    monkeypatch.setenv("DVC_STAGE", "train")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    return tmp_path


def test_a_lock_that_was_cut_anywhere_is_put_back_or_is_one_that_dvc_takes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = Repo.init(no_scm=True, force=True)
    path = folder / "dvc.lock"
    path.write_text(WHOLE)
    lock.keep()
    left = []
    for cut in range(len(WHOLE)):
        path.write_text(WHOLE[:cut])
        lock.mend()
        put_back = "truncated" in capsys.readouterr().out
        assert path.read_text() == (WHOLE if put_back else WHOLE[:cut])
        assert Lockfile(repo, "dvc.lock").load()  # raises for what DVC does not take
        left += [] if put_back else [cut]
    # what a lock lacks DVC takes for not run; half a word it may not know
    assert left and all(WHOLE[cut - 1] == "\n" for cut in left)


def test_what_nobody_has_read_does_not_take_the_copys_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "dvc.lock"
    path.write_text(WHOLE)
    lock.keep()
    path.write_text(WHOLE[:200])
    monkeypatch.delenv("DVC_STAGE")  # a command by hand, such as `make paper`
    lock.keep()
    lock.mend()
    assert path.read_text() == WHOLE


def test_without_a_copy_it_goes(folder: Path) -> None:
    (folder / "dvc.lock").write_text("schema: '2")
    lock.mend()
    assert not (folder / "dvc.lock").exists()
    lock.mend()
    lock.keep()
    assert list((folder / ".dvc/tmp").iterdir()) == []


def test_a_whole_lock_is_left_alone(folder: Path) -> None:
    text = (ROOT / "dvc.lock").read_text(encoding="utf-8")
    (folder / "dvc.lock").write_text(text)
    (folder / ".dvc/tmp/dvc.lock.kept").write_text("old")
    lock.mend()
    assert (folder / "dvc.lock").read_text() == text
    lock.keep()
    assert (folder / ".dvc/tmp/dvc.lock.kept").read_text() == text


@pytest.mark.parametrize(("text", "stays"), [('{"read": {}, "write": {}}', True), ('{"re', False)])
def test_a_list_of_users_that_was_cut_short_goes(folder: Path, text: str, stays: bool) -> None:
    path = folder / ".dvc/tmp/rwlock"
    path.write_text(text)
    lock.mend()
    assert path.exists() == stays
