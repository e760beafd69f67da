"""MATLAB 5 files of untrusted bytes, parsed in a process of its own with bounds on its memory.

One wrong byte makes scipy's C code crash (as of 1.17), and a few megabytes may inflate to many
gigabytes: what happens there happens to that process alone.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MEMORY_BYTES = 2 << 30  # address space of the process
ARRAY_BYTES = 1 << 20  # of one array: a Make3D depth map has half of that
# stdin: a line of JSON (name, sizes), then the files; stdout: for each a line, then its array
PARSER = """
import io, json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
except ImportError:  # not on this system
    pass
import numpy as np
from scipy.io import loadmat
head = json.loads(sys.stdin.buffer.readline())
out = sys.stdout.buffer
for size in head["sizes"]:
    data = sys.stdin.buffer.read(size)
    body, why = io.BytesIO(), None
    try:
        array = loadmat(io.BytesIO(data), variable_names=[head["name"]])[head["name"]]
        if array.nbytes > LARGEST:
            raise ValueError(f"{head['name']} has shape {array.shape}")
        np.save(body, array, allow_pickle=False)
    except Exception as error:
        body, why = io.BytesIO(), f"{type(error).__name__}: {error}"
    out.write(json.dumps({"size": len(body.getvalue()), "why": why}).encode() + b"\\n")
    out.write(body.getvalue())
    out.flush()
""".replace("MEMORY", str(MEMORY_BYTES)).replace("LARGEST", str(ARRAY_BYTES))


def read_matrices(files: Sequence[bytes], name: str) -> list[NDArray | str]:
    """Give the array `name` of each file, or why it has none.

    One process parses them all; where a file kills it, another goes on behind that file.
    """
    results: list[NDArray | str] = []
    while len(results) < len(files):
        rest = files[len(results) :]
        head = json.dumps({"name": name, "sizes": [len(data) for data in rest]})
        done = subprocess.run(
            [sys.executable, "-c", PARSER],
            input=b"".join([head.encode(), b"\n", *rest]),
            capture_output=True,
            # each thread of a linear algebra that nobody needs would reserve memory
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            check=False,
        )
        results += _parse(done.stdout, len(rest))
        if len(results) < len(files):
            results.append("its bytes crash the parser")
    return results


def _parse(output: bytes, most: int) -> list[NDArray | str]:
    """Read what the process wrote before it ended; what is cut short does not count."""
    stream = io.BytesIO(output)
    found: list[NDArray | str] = []
    while len(found) < most and (line := stream.readline()).endswith(b"\n"):
        head = json.loads(line)
        body = stream.read(head["size"])
        if len(body) < head["size"]:
            break
        found.append(head["why"] or np.load(io.BytesIO(body), allow_pickle=False))
    return found
