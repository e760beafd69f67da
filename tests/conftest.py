"""Shared by all tests: reproducible property tests, threads, and fixtures."""

import os

# One thread for each test process and every process that a test starts: two test processes with two
# threads each would wait for each other. Read by OpenMP and numba when they are first imported.
for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# ruff: noqa: E402
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.imports import ROOT
from support.stores import write_stores
from xdist.scheduler import LoadScopeScheduling

# the same examples on every run, however slow the machine: a test never fails by chance
settings.register_profile(
    "reproducible",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reproducible")

REAL_DATA = "HDED_REAL_DATA"


# files whose tests share something that takes long to make: each stays in one process
SHARING = ("test_pipeline.py", "test_resume.py", "test_own.py")


class Scheduler(LoadScopeScheduling):
    """pytest-xdist's: a file of SHARING is one unit, and units of many tests start first.

    All other tests are units of their own, which go to whichever process is free.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return path if path.endswith(SHARING) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    """Distribute the tests by `Scheduler`."""
    return Scheduler(config, log)


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
