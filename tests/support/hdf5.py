"""HDF5 files as tests read and change them."""

import h5py


def dataset(file: h5py.File, name: str | h5py.Reference) -> h5py.Dataset:
    """The array of that name or reference, which must not be a group."""
    found = file[name]
    assert isinstance(found, h5py.Dataset)
    return found
