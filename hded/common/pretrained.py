"""Trained networks that come with the project, in hded/pretrained.

Each has a model card beside it. They have a licence of their own, which lies there too.
"""

import hashlib
from pathlib import Path

from hded.common.errors import HDEDError

FOLDER = Path(__file__).parents[1] / "pretrained"
DIGESTS = FOLDER / "SHA256SUMS"
# names as commands and params.yaml take them
NETWORKS = {"hded": "photographs.safetensors"}
DEFAULT = "hded"


def find(name: str) -> Path | None:
    """Return the file of a network that comes with the project; None where `name` is no such name.

    Raises HDEDError for a file that is missing, or is not the one that was published.
    """
    if name not in NETWORKS:
        return None
    path = FOLDER / NETWORKS[name]
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise HDEDError(f"{path}: cannot be read ({error.strerror}); install hded again") from error
    if found != digests()[path.name]:
        raise HDEDError(f"{path}: is damaged (its SHA-256 is {found}); install hded again")
    return path


def digests() -> dict[str, str]:
    """Return the SHA-256 of each file, by its name, as `sha256sum --check` reads them."""
    pairs = (line.split() for line in DIGESTS.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in pairs}
