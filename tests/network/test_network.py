"""The network: its size, its shapes, its names, how it starts, and that it learns."""

import pytest
import torch
from support.batches import truth
from torch import Tensor, nn
from torch.nn import functional as F

from hded.common.errors import HDEDError
from hded.config.schema import Loss
from hded.network import DenseNetEncoder, HDEDNet
from hded.training.losses import HDEDLoss

TINY = 1 / 32  # growth 1: a thirty-second of every channel count
BOTH_HEADS = ("depth", "all_in_focus")


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def picture(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


def tiny(**options) -> HDEDNet:
    torch.manual_seed(0)
    return HDEDNet(**{"width": TINY, **options})


def stirred(network: HDEDNet) -> HDEDNet:
    """Give every weight, bias and running statistic a value that shows."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if "var" in name or "norm" in name else (-0.4, 0.4)
            tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def full() -> HDEDNet:
    """The paper's network at full width, as training starts it."""
    torch.manual_seed(0)
    return HDEDNet(init="normal")


def test_the_full_network_has_the_papers_41_million_parameters(full):
    assert count(full) == 41_414_400
    assert count(full.encoder) == 7_011_840
    assert count(full.decoders["depth"]) == 17_200_704
    assert count(full.decoders["all_in_focus"]) == 17_201_856


@pytest.mark.parametrize("head", BOTH_HEADS)
def test_a_head_that_is_not_asked_for_costs_nothing(head):
    alone, both = tiny(heads=(head,)), tiny()
    assert list(alone.decoders) == [head]
    assert both.encoder is not None
    assert count(alone) == count(both.encoder) + count(both.decoders[head])
    assert set(alone.eval()(picture(1, 3, 32, 32))) == {head}


def test_a_concatenating_joint_layer_costs_one_convolution_and_only_with_its_head():
    assert count(tiny(joint="concat")) == count(tiny()) + 6 * 3 * 3 * 3
    assert count(tiny(heads=("depth",), joint="concat")) == count(tiny(heads=("depth",)))


def test_only_transposed_convolutions_have_a_bias(full):
    for name, module in full.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None, name
        if isinstance(module, nn.ConvTranspose2d):
            assert module.bias is not None, name


@pytest.mark.parametrize(
    ("width", "channels"),
    [(1.0, (64, 128, 256, 512, 1024)), (0.25, (16, 32, 64, 128, 256)), (TINY, (2, 4, 8, 16, 32))],
)
def test_the_encoder_gives_table_ones_maps(width, channels):
    encoder = DenseNetEncoder(width).eval()
    assert encoder.channels == channels
    side = 256 if width < 1 else 64
    with torch.no_grad():
        maps = encoder(picture(1, 3, side, side))
    strides = (2, 4, 8, 16, 32)
    assert [tuple(m.shape) for m in maps] == [
        (1, c, side // s, side // s) for c, s in zip(channels, strides, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        # names and shapes of torchvision's densenet121().state_dict()
        ("features.norm0.weight", (64,)),
        ("features.norm0.running_var", (64,)),
        ("features.denseblock1.denselayer1.norm1.weight", (64,)),
        ("features.denseblock1.denselayer1.conv1.weight", (128, 64, 1, 1)),
        ("features.denseblock1.denselayer6.norm2.running_mean", (128,)),
        ("features.denseblock1.denselayer6.conv2.weight", (32, 128, 3, 3)),
        ("features.transition1.norm.bias", (256,)),
        ("features.transition1.conv.weight", (128, 256, 1, 1)),
        ("features.denseblock2.denselayer12.conv1.weight", (128, 480, 1, 1)),
        ("features.transition2.conv.weight", (256, 512, 1, 1)),
        ("features.denseblock3.denselayer24.conv1.weight", (128, 992, 1, 1)),
        ("features.transition3.conv.weight", (512, 1024, 1, 1)),
        ("features.denseblock4.denselayer16.conv2.weight", (32, 128, 3, 3)),
        ("features.norm5.weight", (1024,)),
        ("features.norm5.num_batches_tracked", ()),
    ],
)
def test_the_encoders_tensors_bear_torchvisions_names(full, name, shape):
    assert tuple(full.encoder.state_dict()[name].shape) == shape


def test_the_encoder_has_no_tensor_that_torchvision_lacks_but_its_own_stem(full):
    layers = {1: 6, 2: 12, 3: 24, 4: 16}
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    parts = {"conv0": ("weight",), "norm0": norms, "norm5": norms}
    for block, number in layers.items():
        for layer in range(1, number + 1):
            where = f"denseblock{block}.denselayer{layer}"
            parts |= {f"{where}.norm1": norms, f"{where}.norm2": norms}
            parts |= {f"{where}.conv1": ("weight",), f"{where}.conv2": ("weight",)}
        if block < 4:
            parts |= {f"transition{block}.norm": norms, f"transition{block}.conv": ("weight",)}
    torchvision = {f"features.{part}.{name}" for part, names in parts.items() for name in names}
    own = set(full.encoder.state_dict())
    assert torchvision <= own
    assert {name.split(".")[1] for name in own - torchvision} == {"pool0_conv", "pool0_norm"}


def test_the_stem_is_3x3_and_pools_by_a_4x4_convolution(full):
    features = full.encoder.get_submodule("features")
    first, pool = features.get_submodule("conv0"), features.get_submodule("pool0_conv")
    assert isinstance(first, nn.Conv2d) and isinstance(pool, nn.Conv2d)
    assert (first.kernel_size, first.stride) == ((3, 3), (2, 2))
    assert (pool.kernel_size, pool.stride) == ((4, 4), (2, 2))
    assert not any(isinstance(m, nn.MaxPool2d) for m in full.modules())


def by_formula(state: dict[str, Tensor], rgb: Tensor, depth_scale_m: float) -> dict[str, Tensor]:
    """The network of the method's description, from functions and named tensors alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (state[f"{name}.{part}"].view(1, -1, 1, 1) for part in names)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def conv(x: Tensor, name: str, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    at = "encoder.features"
    x = leaky(norm(conv(rgb, f"{at}.conv0", 2, 1), f"{at}.norm0"))
    maps = [x]
    x = leaky(norm(conv(x, f"{at}.pool0_conv", 2, 1), f"{at}.pool0_norm"))
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for i in range(1, layers + 1):
            layer = f"{at}.denseblock{block}.denselayer{i}"
            new = conv(norm(x, f"{layer}.norm1").relu(), f"{layer}.conv1", 1, 0)
            new = conv(norm(new, f"{layer}.norm2").relu(), f"{layer}.conv2", 1, 1)
            x = torch.cat([x, new], 1)
        if block < 4:
            name = f"{at}.transition{block}"
            maps.append(conv(norm(x, f"{name}.norm").relu(), f"{name}.conv", 1, 0))
            x = F.avg_pool2d(maps[-1], 2)
    bottom = norm(x, f"{at}.norm5")
    outputs = {}
    for head in BOTH_HEADS:
        x = bottom
        for i, skip in enumerate((maps[3], maps[2], maps[1], maps[0], None)):
            at = f"decoders.{head}.blocks.{i}"
            x = F.conv_transpose2d(x, state[f"{at}.up.weight"], state[f"{at}.up.bias"], 2, 1)
            x = norm(conv(norm(x, f"{at}.norm1").relu(), f"{at}.conv", 1, 1), f"{at}.norm2").relu()
            x = x if skip is None else torch.cat([x, skip], 1)
        x = conv(x, f"decoders.{head}.predict", 1, 1)
        outputs[head] = depth_scale_m * x if head == "depth" else x + rgb
    return outputs


def test_the_network_computes_what_the_method_describes():
    network, image = stirred(tiny(depth_scale_m=3.0)), picture(2, 3, 64, 96)
    with torch.no_grad():
        outputs = network(image)
        expected = by_formula(network.state_dict(), image, 3.0)
    for head in BOTH_HEADS:
        assert expected[head].std() > 1e-2
        torch.testing.assert_close(outputs[head], expected[head], rtol=1e-4, atol=1e-4)


def test_dropout_of_a_half_is_in_the_two_deepest_blocks_of_each_decoder(full):
    for decoder in full.decoders.values():
        dropouts = [m.p for m in decoder.modules() if isinstance(m, nn.Dropout)]
        active = [p for p in dropouts if p > 0]
        assert active == [0.5, 0.5] and dropouts[:2] == active


def test_dropout_acts_in_training_alone_and_can_be_turned_off():
    image = picture(2, 3, 64, 64)
    for dropout, differs in ((0.5, True), (0.0, False)):
        network = tiny(dropout=dropout, init="normal")
        with torch.no_grad():
            first, second = (network.train()(image)["depth"] for _ in range(2))
            assert torch.equal(first, second) != differs
            first, second = (network.eval()(image)["depth"] for _ in range(2))
            assert torch.equal(first, second)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (427, 561), (460, 345), (33, 65), (16, 40)])
def test_any_size_comes_back_as_it_went_in(size):
    network = stirred(tiny())
    with torch.no_grad():
        outputs = network(picture(2, 3, *size))
    assert outputs["depth"].shape == (2, 1, *size)
    assert outputs["all_in_focus"].shape == (2, 3, *size)
    assert all(output.isfinite().all() for output in outputs.values())


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (16, 16), (2, 70)])
def test_an_image_too_small_to_be_reflected_still_passes(size):
    network = stirred(tiny())
    with torch.no_grad():
        outputs = network(picture(1, 3, *size))
    assert outputs["depth"].shape == (1, 1, *size)
    assert all(output.isfinite().all() for output in outputs.values())


def test_padding_is_a_reflection_at_right_and_bottom():
    network = stirred(tiny())
    image = picture(1, 3, 40, 50)
    rows = [*range(40), *range(38, 14, -1)]
    columns = [*range(50), *range(48, 34, -1)]
    with torch.no_grad():
        expected = network(image[:, :, rows][..., columns])
        outputs = network(image)
    for head in BOTH_HEADS:
        assert torch.equal(outputs[head], expected[head][..., :40, :50])


@pytest.mark.parametrize("joint", ["add", "concat"])
@pytest.mark.parametrize("training", [True, False])
def test_a_network_of_identity_starts_by_giving_its_input_back(joint, training):
    network = tiny(joint=joint).train(training)
    image = picture(2, 3, 70, 45)
    assert torch.equal(network(image)["all_in_focus"], image)


def test_a_network_of_identity_starts_at_no_depth_and_a_normal_one_at_noise():
    image = picture(1, 3, 64, 64)
    with torch.no_grad():
        assert (tiny().eval()(image)["depth"] == 0).all()
        assert tiny(init="normal").eval()(image)["depth"].std() > 0


def test_a_normal_start_draws_every_convolution_narrowly(full):
    for name, module in full.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 10_000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert module.weight.mean().item() == pytest.approx(0, abs=1e-3), name


@pytest.mark.parametrize("init", ["identity", "normal"])
def test_the_start_depends_on_the_seed_alone(init):
    first, second = (tiny(init=init).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(1)
    other = HDEDNet(width=TINY, init=init).state_dict()
    assert not torch.equal(first["encoder.features.conv0.weight"],
                           other["encoder.features.conv0.weight"])  # fmt: skip


def test_depth_is_the_unscaled_output_times_its_scale():
    image = picture(1, 3, 64, 64)
    network, scaled = stirred(tiny(depth_scale_m=1.0)), stirred(tiny(depth_scale_m=80.0))
    with torch.no_grad():
        outputs, metres = network(image), scaled(image)
    assert outputs["depth"].std() > 1e-3
    torch.testing.assert_close(metres["depth"], 80 * outputs["depth"])
    assert torch.equal(metres["all_in_focus"], outputs["all_in_focus"])


def test_tanh_bounds_the_restored_image():
    image = picture(1, 3, 64, 64)
    with torch.no_grad():
        bounded = stirred(tiny(output="tanh"))(image)["all_in_focus"]
        linear = stirred(tiny())(image)["all_in_focus"]
    assert linear.abs().max() > 1.2
    torch.testing.assert_close(bounded, torch.tanh(linear))


def test_the_heads_share_the_encoder_and_nothing_else():
    network = stirred(tiny())
    image = picture(1, 3, 64, 64)
    with torch.no_grad():
        before = network(image)
        for parameter in network.decoders["depth"].parameters():
            parameter.zero_()
        after = network(image)
    assert torch.equal(before["all_in_focus"], after["all_in_focus"])
    assert not torch.equal(before["depth"], after["depth"])


def test_another_encoder_may_stand_in_its_place():
    class Pyramid(nn.Module):
        channels = (3, 3, 3, 3, 3)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [F.avg_pool2d(x, 2**k) for k in range(1, 6)]

    outputs = HDEDNet(encoder=Pyramid()).eval()(picture(1, 3, 50, 60))
    assert outputs["depth"].shape == (1, 1, 50, 60)


@pytest.mark.parametrize(
    "heads", [(), ("depth", "depth"), ("normals",), ("depth", "normals"), "depth"]
)
def test_heads_that_do_not_exist_are_refused(heads):
    with pytest.raises(HDEDError, match="heads"):
        HDEDNet(heads, width=TINY)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("joint", "sum"),
        ("output", "sigmoid"),
        ("init", "zeros"),
        ("width", 0.0),
        ("width", -1.0),
        ("dropout", 1.5),
        ("depth_scale_m", 0.0),
        ("depth_scale_m", float("nan")),
    ],
)
def test_an_option_that_does_not_exist_is_refused_by_name(name, value):
    with pytest.raises(HDEDError, match=name):
        tiny(**{name: value})


def test_a_training_step_at_full_width_moves_every_parameter(full):
    # changes the shared network, so it stands after all other tests of it
    full.train()
    image, sharp = picture(2, 3, 64, 64), picture(2, 3, 64, 64, seed=1)
    depth_m = 5 + 4 * picture(2, 1, 64, 64, seed=2)
    optimizer = torch.optim.Adam(full.parameters(), lr=2e-4, betas=(0.5, 0.999))
    before = {name: p.detach().clone() for name, p in full.named_parameters()}
    terms = HDEDLoss(Loss())(full(image), truth(depth_m, depth_m > 0, sharp))
    terms["total"].backward()
    assert all(term.isfinite() for term in terms.values())
    without = [name for name, p in full.named_parameters() if p.grad is None]
    assert without == []
    optimizer.step()
    still = [name for name, p in full.named_parameters() if torch.equal(p, before[name])]
    assert still == []
    assert all(p.isfinite().all() for p in full.parameters())


def test_from_identity_the_prediction_convolutions_move_first_and_all_else_after_them():
    network = tiny(depth_scale_m=10.0, width=1 / 8).train()
    image, sharp = picture(2, 3, 64, 64), picture(2, 3, 64, 64, seed=1)
    depth_m = 5 + 4 * picture(2, 1, 64, 64, seed=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss = HDEDLoss(Loss(), 10.0)
    moved = []
    for _ in range(2):
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        optimizer.zero_grad()
        loss(network(image), truth(depth_m, depth_m > 0, sharp))["total"].backward()
        optimizer.step()
        moved.append({n for n, p in network.named_parameters() if not torch.equal(p, before[n])})
    assert moved[0] == {f"decoders.{head}.predict.weight" for head in BOTH_HEADS}
    # a bias before a batch norm has no gradient but rounding's
    still = {name for name, _ in network.named_parameters()} - moved[1]
    assert all(name.endswith(".up.bias") for name in still), still


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"confidence": True}, "confidence needs"),
        ({"heads": ["all_in_focus"], "cascade": "all_in_focus"}, "needs the heads depth and"),
    ],
)
def test_parts_that_lack_what_they_need_are_refused(arguments, words):
    with pytest.raises(HDEDError, match=words):
        HDEDNet(width=1 / 16, **arguments)
