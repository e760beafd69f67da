"""What a result depends on, in short: digests of settings, data and code."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import hded


def of_settings(settings: Mapping[str, Any]) -> str:
    """Twelve digits that stand for nested settings, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def of_fit(settings: Mapping[str, Any], data: Iterable[Path]) -> str:
    """Twenty digits that stand for all that decides a fit.

    settings: its own; data: files and folders that it reads. The code is every module of `hded`
    that this process has imported, and the kernels that it imports on a GPU.
    """
    code = {
        name: Path(file)
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == "hded" and (file := getattr(module, "__file__", None))
    }
    code["kernels"] = Path(hded.__file__).parent / "blur/triton_kernels.py"
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, path in [*code.items(), *_files(data)]:
        with path.open("rb") as stream:
            whole.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:20]


def _files(paths: Iterable[Path]) -> Iterable[tuple[str, Path]]:
    for root in paths:
        if root.is_file():
            yield root.name, root
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield path.relative_to(root).as_posix(), path
