"""Publish a trained network with the project: in half precision, with its digest.

python -m pipeline.pretrained data/trained/nyu/any_lens/0/weights.safetensors hded

Writes the file of hded/pretrained that the name stands for. The model card beside it is written by
hand. The file stays in Git's history: publish few.
"""

from pathlib import Path

from hded.common import pretrained
from hded.common.errors import HDEDError
from hded.common.files import write_text
from hded.network.files import halved, read_network, save_network
from pipeline.lib import fingerprint, stage

LARGEST_BYTES = 16 * 2**20


def main() -> None:
    """Write the file and its digest; raises HDEDError, and writes nothing, for too large a one."""
    arguments = stage.parser(__doc__)
    arguments.add_argument("weights", type=Path, help="weights.safetensors of a trained network")
    arguments.add_argument("name", choices=sorted(pretrained.NETWORKS))
    given = arguments.parse_args()
    header, state = read_network(given.weights)
    path, small = pretrained.FOLDER / pretrained.NETWORKS[given.name], halved(state)
    size = sum(tensor.nbytes for tensor in small.values())
    if size > LARGEST_BYTES:
        raise HDEDError(f"{given.weights}: is {size} bytes, at most {LARGEST_BYTES} are published")
    save_network(path, small, header)
    digests = pretrained.digests() if pretrained.DIGESTS.is_file() else {}
    digests[path.name] = fingerprint.of_file(path)
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
    write_text(pretrained.DIGESTS, "".join(lines))
    print(f"{path}: {size} bytes, SHA-256 {digests[path.name]}")


if __name__ == "__main__":
    stage.run(main)
