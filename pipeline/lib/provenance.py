"""Where a figure comes from: hardware, versions, commit."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def hardware(device: torch.device, devices: int = 1) -> str:
    """Return the name of the processor and how much of it `devices` processes use."""
    if device.type == "cuda":
        return f"{devices} x {torch.cuda.get_device_name(device)}"
    return f"{devices * torch.get_num_threads()} CPU threads, {_cpu()}"


def commit() -> str:
    """Return the commit, with `+` if the working tree has changes; "none" outside git."""
    git = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python, torch and further packages."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in packages},
    }


def _cpu() -> str:
    """Return the processor's name on Linux, elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()
