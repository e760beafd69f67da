"""Shared by all tests: reproducible property tests, threads, and fixtures."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from support.imports import ROOT
from support.stores import write_stores

from hded.common.threads import limit_threads

# the same examples on every run, however slow the machine: a test never fails by chance
settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")

# tiny networks gain nothing from several threads, which wait for each other on a busy machine
limit_threads(1)

REAL_DATA = "HDED_REAL_DATA"


# the files that take minutes, longest first
LONG = ("test_pipeline.py", "test_resume.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long files first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of official files that HDED_REAL_DATA names; without it the test is skipped."""
    if not (folder := os.environ.get(REAL_DATA)):
        pytest.skip(f"{REAL_DATA} names no folder with nyu_v2/ and make3d/ official files")
    return Path(folder)


@pytest.fixture
def make_stores(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """`write_stores` into the test's own folder."""
    return lambda **options: write_stores(tmp_path / "tiny", **options)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Eight training and four test frames of 40x56, and what was written into their stores."""
    return write_stores(tmp_path_factory.mktemp("stores"))
