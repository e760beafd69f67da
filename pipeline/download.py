"""Stage `download`: the raw files of a dataset, and their digests in data/raw/<dataset>.json.

    python -m pipeline.download --dataset nyu

`source` in params.yaml decides: the embedded sample is generated; official files are downloaded
once into HDED_DATA_DIR (default ~/.cache/hded) and verified; local files are read where they are,
and never changed or removed. `convert` depends on the digests, not on where the files lie.
"""

from hded.common.files import read_json, write_json
from hded.config.params import load_params
from pipeline.lib import fingerprint, raw, stage


def main() -> None:
    """Run the stage."""
    dataset = stage.parser(__doc__, "dataset").parse_args().dataset
    entry = load_params(stage.PARAMS).source(dataset)
    folder = raw.provide(dataset, entry)
    out = stage.RAW / f"{dataset}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    # digests of files that did not change are not computed again
    cache_path = stage.RAW / f".{dataset}.digests.json"
    known, seen, digests = read_json(cache_path), {}, {}
    for path in raw.files(dataset, entry, folder):
        status = path.stat()
        identity = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
        digest = known.get(identity) or fingerprint.of_file(path)
        seen[identity] = digests[path.relative_to(folder).as_posix()] = digest
    raw.report_others(entry, folder, digests)
    write_json(cache_path, seen)
    write_json(out, digests)


if __name__ == "__main__":
    stage.run(main)
