"""Hashes of what a result depends on: settings, data and code.

The code of a fit is every module of `hded` that `hded.training.build` imports, directly or
indirectly, except those of `IRRELEVANT`. A module's syntax tree is hashed without docstrings and
without the arguments of exceptions, so that comments and error messages do not change the hash.
"""

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
FIT = "hded.training.build"  # the module that builds and runs a fit
# modules that a fit imports but that cannot change its numbers, with the reason
IRRELEVANT = {
    "hded": "holds the version of the package only",
    "hded.common": "holds a docstring only",
    "hded.config": "holds a docstring only",
    "hded.download": "holds a docstring only",
    "hded.download.fetch": "downloads an encoder's weights, whose bytes are hashed as data",
    "hded.download.http": "is the HTTP client of hded.download.fetch",
    "hded.common.errors": "formats error messages",
    "hded.common.files": "names, reads and writes files, whose bytes are hashed as data",
    "hded.common.progress": "draws a progress bar and yields what it is given",
    "hded.config.schema": "checks params.yaml, whose values are hashed as settings",
}
VERSIONED = ("torch", "numba")  # libraries whose version may change the numbers of a fit
# libraries whose version may change the bytes that a stage writes
WRITING = (*VERSIONED, "numpy", "scipy", "pillow", "h5py", "zarr", "numcodecs")


def of_settings(settings: Mapping[str, Any]) -> str:
    """Return a 12-character SHA-256 prefix of nested settings, independent of key order."""
    return hashlib.sha256(_canonical(settings)).hexdigest()[:12]


def of_fit(settings: Mapping[str, Any], data: Iterable[Path], project: Path = PROJECT) -> str:
    """Return a 20-character SHA-256 prefix of everything that determines the numbers of a fit.

    settings: those of the fit; data: the files and folders that it reads; project: the folder that
    contains the package `hded`. The versions of torch and numba are hashed, too.
    """
    whole = hashlib.sha256(_canonical(settings))
    for name in VERSIONED:
        whole.update(f"{name} {version(name)}\n".encode())
    for name, path in sorted(imported_modules(FIT, project).items()):
        if name not in IRRELEVANT:
            whole.update(f"{name} {code_digest(path.read_bytes())}\n".encode())
    _update_by_content(whole, data)
    return whole.hexdigest()[:20]


def of_work(settings: Mapping[str, Any], data: Iterable[Path]) -> str:
    """Return a 12-character SHA-256 prefix of what determines a stage's unfinished work.

    data: files; one that was written anew counts as another one, whatever it contains.
    """
    whole = hashlib.sha256(_canonical(settings))
    whole.update(of_code().encode())
    for path in data:
        status = path.stat()
        whole.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    return whole.hexdigest()[:12]


def of_code() -> str:
    """Return a 12-character SHA-256 prefix of the project's modules and of the libraries' versions.

    Two processes with the same prefix write the same bytes on the same kind of processor.
    """
    whole = hashlib.sha256()
    for package in ("hded", "pipeline"):
        for path in sorted((PROJECT / package).rglob("*.py")):
            whole.update(f"{path.relative_to(PROJECT).as_posix()} {of_file(path)}\n".encode())
    for name in WRITING:
        whole.update(f"{name} {version(name)}\n".encode())
    whole.update(f"python {sys.version_info[:2]}\n".encode())
    return whole.hexdigest()[:12]


def of_data(*data: Path) -> str:
    """Return a 12-character SHA-256 prefix of the contents of files and folders."""
    whole = hashlib.sha256()
    _update_by_content(whole, data)
    return whole.hexdigest()[:12]


def imported_modules(
    module: str, project: Path = PROJECT, packages: Iterable[str] = ("hded",)
) -> dict[str, Path]:
    """Return the file of every module of `packages` that importing `module` may load, by name.

    Imports are read from the source, including those inside functions. A package is represented by
    its __init__.py.
    """
    found: dict[str, Path] = {}
    names = [module]
    while names:
        name = names.pop()
        path = _source(name, project) if name.split(".")[0] in packages else None
        if path is None or name in found:
            continue
        found[name] = path
        names += [name.rsplit(".", 1)[0]]
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def code_digest(source: bytes) -> str:
    """Return the SHA-256 of Python source without comments, docstrings and error texts."""
    return hashlib.sha256(ast.dump(_Bare().visit(ast.parse(source))).encode()).hexdigest()


class _Bare(ast.NodeTransformer):
    """Removes docstrings, and the arguments of exceptions and of `check_choice`, which raises."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        if name.endswith("Error") or name == "check_choice":
            node.args, node.keywords = [], []
        return self.generic_visit(node)


def _canonical(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, sort_keys=True).encode()


def _source(module: str, project: Path) -> Path | None:
    base = project.joinpath(*module.split("."))
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def _update_by_content(whole: Any, data: Iterable[Path]) -> None:
    for name, path in _files(data):
        whole.update(f"{name} {of_file(path)}\n".encode())


def of_file(path: Path) -> str:
    """Return a file's SHA-256; a file that did not change is read once in a process."""
    status = path.stat()
    return _file_digest(path, status.st_mtime_ns, status.st_size)


@cache
def _file_digest(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for root in paths:
        if root.is_file():
            yield root.name, root
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield path.relative_to(root).as_posix(), path
