"""The supported set-up: what `.ci/requirements.txt` pins."""

import re

import pytest
from imports import ROOT

LOCK = (ROOT / ".ci/requirements.txt").read_text(encoding="utf-8")
ENTRIES = [entry for entry in re.split(r"(?m)^(?=\w)", LOCK) if not entry.startswith("#")]


def test_every_package_is_pinned_and_hashed() -> None:
    assert len(ENTRIES) > 50
    for entry in ENTRIES:
        assert re.match(r"[\w.-]+==[\w.]+ .*\n +--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("prefix", ["nvidia-", "cuda-", "torch=="])
def test_nothing_is_pinned_that_belongs_to_torchs_own_build(prefix: str) -> None:
    """A CPU build of torch needs no CUDA: pinned, it would be gigabytes for everybody."""
    assert not [entry for entry in ENTRIES if entry.startswith(prefix)]
