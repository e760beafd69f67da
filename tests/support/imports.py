"""Which project files a module imports, directly or not, read from the source."""

from pathlib import Path

from pipeline.lib.fingerprint import imported_modules

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hded", "pipeline")


def closure(module: str) -> set[str]:
    """Return the project's files that importing `module` runs, as posix paths from the root."""
    files = imported_modules(module, ROOT, PACKAGES).values()
    return {path.relative_to(ROOT).as_posix() for path in files}
