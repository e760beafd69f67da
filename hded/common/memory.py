"""How much memory a process may still use."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Return the memory [bytes] that is left on this machine, or to this container."""
    return min(_machine(), _container())


def _machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container() -> int:
    """Return what control groups (version 2) leave; without a limit, more than any machine has.

    Files that are kept in memory count as free: they are dropped when it is needed.
    """
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        fields = dict(line.split() for line in lines)
        cached = int(fields["active_file"]) + int(fields["inactive_file"])
    except (OSError, ValueError, KeyError):  # no limit is the word `max`
        return 1 << 62
    return max(0, limit - used + cached)
