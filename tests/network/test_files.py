"""Files of trained networks: what they hold, and what is refused."""

import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from hded.common.errors import HDEDError
from hded.network import HDEDNet
from hded.network.files import Header, read_network, save_network

ARGUMENTS = {
    "heads": ["depth"], "encoder": "densenet121", "width": 1 / 32, "depth_scale_m": 10.0,
    "depth_range_m": [0.7, 10.2],
}  # fmt: skip
CAMERA = {"name": "paper", "focal_length_m": 0.07, "noise": {"shot": [0.0, 0.01]}}
HEADER = Header(
    network=ARGUMENTS, geometry="crop", size_px=64, cameras=(CAMERA,),
    data={"dataset": "nyu", "source": "sample"},
)  # fmt: skip


def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = HDEDNet(**ARGUMENTS)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return network.state_dict()


def test_a_file_gives_back_header_and_tensors(tmp_path: Path) -> None:
    save_network(tmp_path / "w.safetensors", state(), HEADER)
    header, found = read_network(tmp_path / "w.safetensors")
    assert header == HEADER
    expected = state()
    assert list(sorted(found)) == sorted(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    save_network(tmp_path / "w.safetensors", state(), HEADER)
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        told = json.loads(file.metadata()["hded"])
        assert file.get_tensor("encoder.features.conv0.weight").shape[1] == 3
    assert told["cameras"] == [CAMERA] and told["network"]["depth_range_m"] == [0.7, 10.2]


def test_equal_networks_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_network(tmp_path / name, dict(reversed(state().items())), HEADER)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_of_an_earlier_version_is_read_with_a_warning(tmp_path: Path, capsys) -> None:
    content = {"format": 1, "network": ARGUMENTS, "geometry": "crop", "size_px": 64}
    torch.save({**content, "state_dict": state()}, tmp_path / "old.pt")
    header, found = read_network(tmp_path / "old.pt")
    assert header == HEADER.model_copy(update={"cameras": (), "data": {}})
    assert all(torch.equal(found[name], tensor) for name, tensor in state().items())
    warning = capsys.readouterr().err
    assert "old.pt" in warning and "earlier version" in warning and warning.count("\n") == 1


def test_what_is_no_network_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_network(path, state(), HEADER)
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    foreign = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    bad = {
        "cut": whole[: 8 + length + 100],
        "cut in the header": whole[:100],
        "a huge header": struct.pack("<Q", 2**31) + whole[8:],
        "of another program": struct.pack("<Q", len(foreign)) + foreign + bytes(4),
        "another format": whole.replace(b'\\"format\\": 2', b'\\"format\\": 9'),
        "an unknown key": whole.replace(b'\\"size_px\\"', b'\\"side_px\\"'),
        "text": b"not a network\n",
        "empty": b"",
        "a pickle": pickle.dumps({"format": 1}),
    }
    for kind, content in bad.items():
        assert content != whole, kind
        path.write_bytes(content)
        with pytest.raises(HDEDError, match=r"w\.safetensors") as caught:
            read_network(path)
        assert "\n" not in str(caught.value), kind
    path.unlink()
    with pytest.raises(HDEDError, match="no such file; give a trained network"):
        read_network(path)
    path.mkdir()
    with pytest.raises(HDEDError, match="cannot be read"):
        read_network(path)
