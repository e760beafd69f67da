"""The supported set-up: what `.ci/requirements.txt` pins, and what `make lint` says of the rest."""

import importlib.util
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from support.imports import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LOCK = (ROOT / ".ci/requirements.txt").read_text(encoding="utf-8")
LICENCES = (ROOT / ".ci/licences.md").read_text(encoding="utf-8")

TEXT = {".py", ".yaml", ".toml", ".md", ".csv", ".html", ".lock", ".txt"}


def test_every_package_is_installed() -> None:
    listed = set(tomllib.loads(PYPROJECT)["tool"]["setuptools"]["packages"])
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ("hded", "pipeline")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert listed == found


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_lock", ROOT / ".ci/check_lock.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_lock = load()


def test_every_package_is_pinned_hashed_and_has_its_licence_listed() -> None:
    pinned = check_lock.locked(LOCK)
    assert len(pinned) > 100
    assert check_lock.problems(PYPROJECT, LOCK, LICENCES, pinned) == []


@pytest.mark.parametrize("prefix", ["nvidia-", "cuda-", "torch"])
def test_nothing_is_pinned_that_belongs_to_torchs_own_build(prefix: str) -> None:
    """A CPU build of torch needs no CUDA: pinned, it would be gigabytes for everybody."""
    found = [name for name in check_lock.locked(LOCK) if name.startswith(prefix)]
    assert found == (["torchmetrics"] if prefix == "torch" else [])


@pytest.mark.parametrize(
    ("pyproject", "lock", "licences", "installed", "line"),
    [
        ('"zarr>=3.0.8"', None, None, {}, "leftpad>=1 of pyproject.toml is not pinned"),
        ('"setuptools>=77"', None, None, {}, "leftpad>=1 of pyproject.toml is not pinned"),
        (None, "unhashed", None, {}, "'leftpad==1.0' is not pinned and hashed"),
        (None, "loose", None, {}, "'leftpad>=1' is not pinned and hashed"),
        ('"zarr>=3.0.8"', "too old", None, {}, "zarr>=99 of pyproject.toml: the lock has 3."),
        (None, None, None, {"leftpad": "1.0"}, "leftpad 1.0 is installed but not pinned"),
        (None, None, "zarr", {}, "zarr is not in licences.md; run `make licences`"),
    ],
)
def test_what_is_not_under_control_is_named(
    pyproject: str | None, lock: str | None, licences: str | None, installed: dict, line: str
) -> None:
    """A new dependency, a line without hash or version, a stray package, a licence left out."""
    text, pins, list_of = PYPROJECT, LOCK, LICENCES
    if pyproject:
        new = '"zarr>=99"' if lock == "too old" else f'{pyproject}, "leftpad>=1"'
        assert pyproject in text
        text = text.replace(pyproject, new)
    if lock == "unhashed":
        pins += "leftpad==1.0\n"
    if lock == "loose":
        pins += "leftpad>=1 \\\n    --hash=sha256:" + "0" * 64 + "\n"
    if licences:
        list_of = "\n".join(row for row in list_of.splitlines() if not row.startswith("| zarr "))
    found = check_lock.problems(text, pins, list_of, installed)
    assert len(found) == 1 and line in found[0]


def test_a_checkout_has_the_same_bytes_whatever_git_makes_of_line_ends(tmp_path: Path) -> None:
    """DVC hashes files as they lie there: with CRLF every stage would run again."""
    command = [
        "git",
        "clone",
        "-q",
        "--config",
        "core.autocrlf=true",
        str(ROOT),
        str(tmp_path / "c"),
    ]
    subprocess.run(command, check=True)
    files = [file for file in (tmp_path / "c").rglob("*") if file.suffix in TEXT and file.is_file()]
    assert len(files) > 100
    assert [file for file in files if b"\r\n" in file.read_bytes()] == []
