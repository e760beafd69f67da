"""torch and numba share one number of threads."""

import json
import subprocess
import sys

import pytest
from support.imports import ROOT

# a process of its own, whose first parallel call of numba comes after the limit
SCRIPT = """
import json, sys
import numba, numpy as np, torch
from hded.blur import gaussian_gather
from hded.common.threads import limit_threads

torch.set_num_threads(int(sys.argv[1]))
limit_threads(*map(int, sys.argv[2:]))
gaussian_gather(np.zeros((70, 70, 3), np.uint8), np.ones((70, 70), np.float32))
print(json.dumps([torch.get_num_threads(), numba.get_num_threads()]))
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["2", "1"], [1, 1]),
        (["1", "3"], [3, 2]),
        pytest.param(["1"], [1, 1], marks=pytest.mark.slow),
        pytest.param(["1", "2"], [2, 2], marks=pytest.mark.slow),
    ],
)
def test_a_parallel_call_of_numba_leaves_the_numbers(monkeypatch, arguments, expected):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
