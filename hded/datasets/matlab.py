"""Untrusted MATLAB 5 files, parsed in a separate process with limited memory.

One wrong byte can crash scipy's C code (as of 1.17), and a few megabytes may decompress to many
gigabytes; a separate process contains both.
"""

import io
import json
import os
import subprocess
import sys
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

MEMORY_BYTES = 2 << 30  # address space of the process
ARRAY_BYTES = 1 << 20  # limit for one array; a Make3D depth map has half of that
# request: a line with name and size, then the bytes; response: a line with size and error, then the
# array
PROGRAM = """
import io, json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
except ImportError:  # not on this system
    pass
import numpy as np
from scipy.io import loadmat
given, out = sys.stdin.buffer, sys.stdout.buffer
while line := given.readline():
    name, size = json.loads(line)
    data, body, why = given.read(size), b"", None
    try:
        array = loadmat(io.BytesIO(data), variable_names=[name])[name]
        if array.nbytes > LARGEST:
            raise ValueError(f"{name} has shape {array.shape}")
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        body = stream.getvalue()
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    out.write(json.dumps([len(body), why]).encode() + b"\\n" + body)
    out.flush()
"""


class MatReader:
    """A process that reads arrays from MATLAB files; a context manager that ends it."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        program = PROGRAM.replace("MEMORY", str(memory_bytes)).replace("LARGEST", str(ARRAY_BYTES))
        self._command = [sys.executable, "-c", program]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "MatReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def read(self, data: bytes, name: str) -> NDArray | str:
        """Return the array `name` in a file's bytes, or the reason why it cannot be read."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([name, len(data)]).encode() + b"\n" + data)
            process.stdin.flush()
            size, why = json.loads(process.stdout.readline())
            body = process.stdout.read(size)
            return why or np.load(io.BytesIO(body), allow_pickle=False)
        except (OSError, ValueError, EOFError):  # the process has died
            self._end()
            return "its bytes crash the parser"

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # each thread of the linear algebra library would reserve memory
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
