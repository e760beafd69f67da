"""Readers of the datasets' official raw formats and of a user's own images, and their registry.

To add a dataset with official files:

- write its reader, a module that ends with its `Dataset`, and list it in `DATASETS`;
- add its title to `OFFICIAL` in hded.config.schema, and its files to `download` in params.yaml;
- optionally register a writer of sample data in `WRITERS` of hded.sample.write, and the depth
  protocols of its benchmark in `DEPTH_PROTOCOLS` of hded.evaluation.protocols. Without the latter
  it is evaluated as a user's own images are.

These are in different packages because a DVC stage depends on whole packages: training and
evaluation must not depend on the readers, nor conversion on the generator of sample data.
"""

from hded.datasets.base import Dataset, RawFrame, RawFrames
from hded.datasets.make3d import MAKE3D
from hded.datasets.nyu import NYU

DATASETS = {dataset.name: dataset for dataset in (NYU, MAKE3D)}

__all__ = ["DATASETS", "Dataset", "RawFrame", "RawFrames"]
