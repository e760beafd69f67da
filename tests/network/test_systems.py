"""The parts that systems add to the paper's network: encoders, decoders, readouts, shots."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hded.common.errors import HDEDError
from hded.network import HDEDNet
from hded.network.layers import convolution_stack
from hded.network.neumann import BLURS, BlurDictionary, NeumannDecoder
from hded.network.readout import DepthReadout, decode_ordinal, encode_ordinal

SYSTEMS: dict[str, dict[str, Any]] = {
    "unet": {"heads": ["depth"], "encoder": "unet", "decoder": "unet", "readout": "log"},
    "pyramid": {"heads": ["depth"], "encoder": "efficientnet_lite0", "decoder": "pyramid"},
    "ordinal": {
        "heads": ["depth"], "encoder": "efficientnet_lite0", "decoder": "bilinear",
        "readout": "ordinal", "context": "spatial_pyramid",
    },
    "coc": {"encoder": "efficientnet_lite0", "decoder": "bilinear", "readout": "coc"},
    "sure": {
        "heads": ["depth"], "encoder": "efficientnet_lite0", "decoder": "bilinear",
        "readout": "coc", "confidence": True,
    },
    "sure of log": {
        "heads": ["depth"], "encoder": "efficientnet_lite0", "decoder": "bilinear",
        "readout": "log", "confidence": True,
    },
    "told": {"encoder": "efficientnet_lite0", "decoder": "bilinear", "reads_lens": True},
    "two shots": {
        "heads": ["depth"], "encoder": "efficientnet_lite0", "decoder": "bilinear", "shots": 2,
    },
    "stacked": {
        "heads": ["depth"], "encoder": "efficientnet_lite0", "decoder": "bilinear",
        "cascade": "depth",
    },
    "cascade": {
        "encoder": "densenet121", "decoder": "transposed", "cascade": "all_in_focus",
    },
    "plain": {"heads": ["all_in_focus"], "encoder": "none", "decoder": "plain"},
    "dilated": {"heads": ["all_in_focus"], "encoder": "none", "decoder": "dilated"},
    "neumann": {"heads": ["all_in_focus"], "encoder": "none", "decoder": "neumann"},
    "denoiser": {
        "heads": ["depth"], "encoder": "efficientnet_lite0", "decoder": "bilinear",
        "denoiser": True,
    },
}  # fmt: skip


def build(name: str, **changes: Any) -> HDEDNet:
    torch.manual_seed(0)
    return HDEDNet(**{"width": 1 / 16, "dropout": 0.0, **SYSTEMS[name], **changes})


def picture(name: str, batch: int = 2, size: tuple[int, int] = (64, 96)) -> Tensor:
    shots = SYSTEMS[name].get("shots", 1)
    return torch.rand(batch, 3 * shots, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts_are_reproduced() -> None:
    whole = {"width": 1.0}
    assert count(HDEDNet(["depth"])) == 24_212_544  # D3-Net
    assert count(build("neumann", **whole)) == 6_094_170  # NRKNet
    assert count(build("plain", **whole)) == 669_376  # DnCNN of depth 20, in colour
    shallow = nn.Sequential(convolution_stack(3, 64, [1] * 16), nn.Conv2d(64, 3, 3, bias=False))
    assert count(shallow) == 558_400  # and of depth 17
    without_norm = convolution_stack(3, 64, (1, 2, 3, 4, 3, 2), norm=False)
    assert count(nn.Sequential(without_norm, nn.Conv2d(64, 3, 3))) == 188_163  # IRCNN's denoiser


@pytest.mark.parametrize(("name", "field"), [("plain", 41), ("dilated", 33)])
def test_the_receptive_field_is_the_published_one(name: str, field: int) -> None:
    network = build(name, init="normal").eval()
    for module in network.modules():  # ReLU must not hide what a pixel depends on
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.01)
    image = torch.ones(1, 3, 96, 96, requires_grad=True)
    network(image)["all_in_focus"][0, :, 48, 48].sum().backward()
    assert image.grad is not None
    rows, columns = np.nonzero(image.grad[0].abs().sum(0).numpy())
    assert np.ptp(rows) + 1 == np.ptp(columns) + 1 == field


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
def test_outputs_have_the_images_size_and_every_parameter_learns(
    name: str, size: tuple[int, int]
) -> None:
    network = build(name, init="normal").train()
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    rgb = picture(name, size=size)
    sharp = rgb[:, :3]
    lens = torch.tensor([[10.0, 2.0, 29.0, 0.25, 0.0, 0.0]]).expand(2, -1)
    outputs = network(rgb, sharp if network.denoiser else None, lens)
    for head in network.heads:
        assert outputs[head].shape == (2, 1 if head == "depth" else 3, *size)
    trained = ["depth_logits"] if "depth_logits" in outputs else list(outputs)
    if "log_error" in outputs:
        assert outputs["confidence"].shape == outputs["log_error"].shape == (2, 1, *size)
    trained += ["all_in_focus"] if "all_in_focus" in outputs and trained[0] != "depth" else []
    sum(outputs[name].square().mean() for name in trained).backward()  # pyright: ignore
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["plain", "dilated", "neumann", "cascade"])
def test_an_untrained_system_gives_back_its_input(name: str) -> None:
    rgb = picture(name)
    torch.testing.assert_close(build(name).eval()(rgb)["all_in_focus"], rgb[:, :3])


def test_both_shots_reach_the_output_and_their_order_matters() -> None:
    network = build("two shots", init="normal").eval()
    rgb = picture("two shots")
    depth = network(rgb)["depth"]
    for swapped in (rgb[:, [3, 4, 5, 0, 1, 2]], rgb[:, [0, 1, 2, 0, 1, 2]]):
        assert not torch.allclose(network(swapped)["depth"], depth)


def test_the_second_network_sees_the_firsts_depth() -> None:
    network = build("cascade", init="normal").eval()
    rgb = picture("cascade")
    before = network(rgb)["all_in_focus"]
    with torch.no_grad():
        network.decoders["depth"].get_parameter("predict.weight").mul_(300)
    assert not torch.equal(network(rgb)["all_in_focus"], before)


def test_ordinal_depth_is_decoded_within_its_interval() -> None:
    thresholds = torch.from_numpy(np.geomspace(0.7, 10.2, 68)).float()
    depth_m = torch.from_numpy(np.geomspace(0.75, 10.0, 500)).float().reshape(1, 1, 20, 25)
    target = encode_ordinal(depth_m, thresholds)
    assert target.shape == (1, 68, 20, 25)
    assert (target.diff(dim=1) <= 0).all()  # no threshold is exceeded beyond one that is not
    decoded = decode_ordinal(10 * (2 * target - 1), thresholds)
    step = (10.2 / 0.7) ** (1 / 67)
    ratio = (decoded / depth_m).flatten()
    assert (ratio < step**0.5 * 1.0001).all() and (ratio > step**-0.5 * 0.9999).all()


def test_readouts_start_in_the_middle_of_their_range_or_at_zero() -> None:
    raw = torch.zeros(1, 1, 2, 2)
    assert DepthReadout("metres", 10.0, (0.7, 10.2))(raw).unique().item() == 0
    log = DepthReadout("log", 10.0, (0.7, 10.2))(raw).unique().item()
    assert log == pytest.approx((0.7 * 10.2) ** 0.5)
    with pytest.raises(HDEDError, match="depth_range_m"):
        DepthReadout("log", 10.0, (2.0, 1.0))


def test_a_neumann_series_undoes_the_blur_that_its_weights_state() -> None:
    torch.manual_seed(0)
    decoder = NeumannDecoder(1 / 16)
    with torch.no_grad():  # K = I + (the tenth blur - I), everywhere and for each color
        decoder.predict.weight.zero_()
        decoder.predict.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        for color in range(3):
            decoder.predict.weight[color, color] = -1
            decoder.predict.weight[color, 30 + color] = 1
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    sharp = torch.stack([torch.sin(rows / n) * torch.cos(columns / n) for n in (3, 4, 5)])[None]
    blurred = decoder.blurs(sharp)[:, 30:33]
    weights = torch.ones(1, 22, 48, 64)
    errors = [
        (decoder._series(blurred, weights, terms)[0] - sharp).abs().mean().item()
        for terms in (0, 1, 3, 8)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.3 * errors[0]


def test_the_dictionary_holds_ever_wider_blurs_and_keeps_brightness() -> None:
    torch.manual_seed(0)
    point = torch.zeros(1, 3, 65, 65)
    point[..., 32, 32] = 1
    images = BlurDictionary()(point)[0].unflatten(0, (BLURS + 1, 3))
    torch.testing.assert_close(images.sum((2, 3)), torch.ones(BLURS + 1, 3))
    assert (images.amax((2, 3)).diff(dim=0) < 0).all()


def test_each_scale_of_a_neumann_series_is_trained_and_the_state_reaches_the_finest() -> None:
    network = build("neumann", init="normal").train()
    rgb = picture("neumann")
    outputs = network(rgb)
    sizes = {name: tuple(output.shape[2:]) for name, output in outputs.items()}
    assert sizes == {
        "all_in_focus": (64, 96), "all_in_focus_over_4": (16, 24),
        "all_in_focus_over_2": (32, 48), "all_in_focus_over_1": (64, 96),
    }  # fmt: skip
    assert list(network.eval()(rgb)) == ["all_in_focus"]
    decoder = network.decoders["all_in_focus"]
    assert isinstance(decoder, NeumannDecoder)
    features = torch.rand(1, 4, 8, 8)
    weights, state = decoder.attention(features, None)
    again, _ = decoder.attention(features, state)
    assert not torch.allclose(weights, again)


def test_the_denoiser_learns_to_take_noise_away() -> None:
    torch.manual_seed(0)
    denoiser = build("denoiser").denoiser
    assert denoiser is not None
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    steps = torch.arange(24.0) / 24
    clean = torch.stack([steps[:, None] * a + steps[None] * (1 - a) for a in (0.2, 0.5, 0.8)])
    clean = clean[None].repeat(4, 1, 1, 1)
    level = torch.full((4,), 0.1)
    for _ in range(120):
        noisy = clean + 0.1 * torch.randn_like(clean)
        loss = (denoiser(noisy, level) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4 * 0.1**2
