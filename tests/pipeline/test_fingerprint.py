"""A fit's key covers what decides its numbers, and no more."""

import ast
import shutil
from pathlib import Path

import pytest
from support.imports import ROOT

from pipeline.lib import fingerprint

SETTINGS = {"train": {"lr": 1e-3, "epochs": 2}, "seed": 0}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the library, to be changed."""
    shutil.copytree(ROOT / "hded", tmp_path / "hded", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def key(project: Path) -> str:
    return fingerprint.of_fit(SETTINGS, [], project)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def hashed(project: Path) -> dict[str, Path]:
    modules = fingerprint.imported_modules(fingerprint.FIT, project)
    return {name: path for name, path in modules.items() if name not in fingerprint.IRRELEVANT}


def test_a_comment_and_a_docstring_anywhere_change_no_key(project: Path) -> None:
    before = key(project)
    for path in hashed(project).values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            if ast.get_docstring(node):
                docstring = node.body[0]
                assert isinstance(docstring, ast.Expr)
                docstring.value = ast.Constant("Another text.")
        path.write_text(f"# a comment\n{ast.unparse(tree)}\n", encoding="utf-8")
    assert key(project) == before


def test_the_text_of_an_error_anywhere_changes_no_key(project: Path) -> None:
    before = key(project)
    changed = 0
    for path in hashed(project).values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                node.exc.args[0] = ast.Constant("another text")
                changed += 1
        path.write_text(ast.unparse(tree), encoding="utf-8")
    assert changed > 20
    assert key(project) == before


@pytest.mark.parametrize("name", sorted(fingerprint.IRRELEVANT))
def test_a_module_that_is_listed_as_irrelevant_changes_no_key(project: Path, name: str) -> None:
    path = fingerprint.imported_modules(fingerprint.FIT, project)[
        name
    ]  # and the list names no other module
    before = key(project)
    path.write_text(path.read_text(encoding="utf-8") + "\nCHANGED = 1\n", encoding="utf-8")
    assert key(project) == before
    assert fingerprint.IRRELEVANT[name]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("training/losses.py", "CHARBONNIER_EPS = 1e-3", "CHARBONNIER_EPS = 1e-4"),
        ("common/resize.py", "np.arange(out) + 0.5", "np.arange(out) + 0.25"),
        (
            "network/normalize.py",
            "tensor.movedim(-1, -3).float() / 127.5 - 1",
            "tensor.movedim(-1, -3).float() / 128 - 1",
        ),
        ("blur/triton_kernels.py", "import triton\n", "import triton\n\nMORE = 1\n"),
    ],
)
def test_a_constant_that_a_fit_computes_with_changes_the_key(
    project: Path, file: str, old: str, new: str
) -> None:
    before = key(project)
    replace(project / "hded" / file, old, new)
    assert key(project) != before


def test_a_module_that_a_fit_newly_imports_is_hashed_until_it_is_listed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = project / "hded/helper.py"
    helper.write_text("FACTOR = 1\n")
    losses = project / "hded/training/losses.py"
    losses.write_text(
        losses.read_text()
        + "\n\ndef late():\n    from hded.helper import FACTOR\n\n    return FACTOR\n"
    )
    before = key(project)
    helper.write_text("FACTOR = 2\n")
    assert key(project) != before
    monkeypatch.setitem(fingerprint.IRRELEVANT, "hded.helper", "does not matter")
    listed = key(project)
    helper.write_text("FACTOR = 3\n")
    assert key(project) == listed


def test_a_module_that_no_fit_imports_changes_no_key(project: Path) -> None:
    before = key(project)
    replace(project / "hded/evaluation/bootstrap.py", "RESAMPLES = 10_000", "RESAMPLES = 9_999")
    assert key(project) == before


@pytest.mark.parametrize("library", fingerprint.VERSIONED)
def test_the_versions_of_torch_and_numba_change_the_key(
    project: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    before, version = key(project), fingerprint.version
    monkeypatch.setattr(
        fingerprint, "version", lambda name: "0" if name == library else version(name)
    )
    assert key(project) != before


def test_settings_and_data_change_the_key(project: Path, tmp_path: Path) -> None:
    before = key(project)
    assert fingerprint.of_fit({**SETTINGS, "seed": 1}, [], project) != before
    assert fingerprint.of_fit(dict(reversed(SETTINGS.items())), [], project) == before
    data = tmp_path / "store/shard"
    data.parent.mkdir()
    data.write_bytes(b"one")
    with_data = fingerprint.of_fit(SETTINGS, [data.parent], project)
    data.write_bytes(b"two")
    assert len({before, with_data, fingerprint.of_fit(SETTINGS, [data.parent], project)}) == 3
