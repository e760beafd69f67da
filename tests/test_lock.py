"""dvc.lock survives a kill: each stage keeps a copy, and what was cut short is put back."""

from pathlib import Path

import pytest
from imports import ROOT

from pipeline import lock

WHOLE = (
    "schema: '2.0'\nstages:\n  download@nyu:\n    cmd: python\n  convert@nyu:\n    cmd: python\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("cut", [0, 1, 10, 40, len(WHOLE) - 3])
def test_a_lock_that_was_cut_short_is_put_back(
    folder: Path, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "dvc.lock"
    path.write_text(WHOLE)
    lock.keep()
    path.write_text(WHOLE[:cut])
    lock.mend()
    # what still reads as a lock is left: DVC takes what it lacks for not run
    left = cut == len(WHOLE) - 3
    assert path.read_text() == (WHOLE[:cut] if left else WHOLE)
    assert ("cut short" in capsys.readouterr().out) == (not left)


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
