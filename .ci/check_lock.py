"""Fail where a dependency is not pinned and hashed, or stands in no licence list.

    python .ci/check_lock.py

Compares pyproject.toml (every extra), .ci/requirements.txt, .ci/licences.md and what is installed.
torch is pinned in the Makefile, by version alone: its builds differ in their hash.
"""

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# torch; this project; pip, and the tools of `make lock` and `make licences` with what they bring
ELSEWHERE = {
    "torch",
    "hded",
    "pip",
    "wheel",
    "pip-tools",
    "pip-licenses",
    "build",
    "pyproject-hooks",
}


def locked(text: str) -> dict[str, str]:
    """Give the versions of the pinned and hashed packages; raise ValueError for another line."""
    found = {}
    for entry in re.split(r"(?m)^(?=[A-Za-z])", text):
        if entry.startswith("#") or not entry.strip():
            continue
        match = re.match(r"([\w.-]+)==([\w.+!]+)[^\n]*\\\n +--hash=sha256:[0-9a-f]{64}", entry)
        if match is None:
            raise ValueError(f"requirements.txt: {entry.split()[0]!r} is not pinned and hashed")
        found[canonicalize_name(match[1])] = match[2]
    return found


def wanted(text: str) -> list[Requirement]:
    """Give every requirement of pyproject.toml, of the build and of the extras too."""
    content = tomllib.loads(text)
    project = content["project"]
    groups = [
        content.get("build-system", {}).get("requires", []),
        project["dependencies"],
        *project.get("optional-dependencies", {}).values(),
    ]
    return [Requirement(text) for group in groups for text in group]


def problems(pyproject: str, lock: str, licences: str, installed: dict[str, str]) -> list[str]:
    """Give a line for each dependency that is not under control."""
    try:
        pinned = locked(lock)
    except ValueError as error:
        return [str(error)]
    found = []
    for requirement in wanted(pyproject):
        name = canonicalize_name(requirement.name)
        if name in pinned and not requirement.specifier.contains(pinned[name], prereleases=True):
            found.append(
                f"{requirement} of pyproject.toml: the lock has {pinned[name]}; `make lock`"
            )
        elif name not in pinned and name not in ELSEWHERE:
            found.append(f"{requirement} of pyproject.toml is not pinned; run `make lock`")
    for name, version in installed.items():
        if name in ELSEWHERE or name.startswith(("nvidia-", "cuda-")):
            continue
        if name not in pinned:
            found.append(f"{name} {version} is installed but not pinned; run `make lock`")
    listed = {canonicalize_name(n) for n in re.findall(r"(?m)^\| ([\w.-]+) +\|", licences)}
    found += [
        f"{name} is not in licences.md; run `make licences`"
        for name in pinned
        if name not in listed
    ]
    return found


def main() -> None:
    """Print what is wrong; exit 1 if anything is."""
    here = {canonicalize_name(d.name): d.version for d in distributions() if d.name}
    found = problems(
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
        (ROOT / ".ci/requirements.txt").read_text(encoding="utf-8"),
        (ROOT / ".ci/licences.md").read_text(encoding="utf-8"),
        here,
    )
    for line in found:
        print(line, file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
