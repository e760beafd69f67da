"""Table I: the architecture, read off the live network by hooks, beside the paper's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hded.network import HDEDNet
from hded.report.read.runs import Run
from hded.report.tables.captions import dataset_title, network_title
from hded.report.tables.model import Cell, Column, Part, Row, Table, missing
from hded.report.tables.published import Published, published

SIZE_PX = 256
COLUMNS = (
    Column("operation", "operation", numeric=False),
    Column("size", f"output at {SIZE_PX}x{SIZE_PX}"),
    Column("channels", "channels"),
    Column("parameters", "parameters"),
    Column("paper", "paper", numeric=False),
)
NOT_TRANSCRIBED = "not transcribed: the paper's row is not in published.csv"
DECODER_DIFFERENCE = (
    "differs from the paper's row, whose decoder does not fit its 41 M parameters: a block of 1024 "
    "channels out of 1024 alone would need 26 M in each head. Ours narrows from the first block "
    "on, as D3-Net's, and fits"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One row: what a part of the network did to an image of 256x256."""

    name: str
    operation: str
    size: tuple[int, int]
    channels_in: int
    channels_out: int
    parameters: int


def read_layers(network: HDEDNet) -> list[Layer]:
    """Run `network` once on the meta device's shapes and record every row of Table I."""
    layers: list[Layer] = []
    handles = []
    for name, operation, modules in _rows(network):

        def record(
            module: nn.Module,
            inputs: tuple[torch.Tensor, ...],
            output: torch.Tensor,
            name: str = name,
            operation: str = operation,
            modules: Sequence[nn.Module] = modules,
        ) -> None:
            count = sum(p.numel() for m in modules for p in m.parameters())
            height, width = output.shape[-2:]
            layers.append(
                Layer(name, operation, (height, width), inputs[0].shape[1], output.shape[1], count)
            )

        handles.append(modules[0].register_forward_hook(record))
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    with torch.no_grad():
        network(torch.empty(1, 3, SIZE_PX, SIZE_PX, device=device))
    network.train(was_training)
    for handle in handles:
        handle.remove()
    return layers


def _rows(network: HDEDNet) -> list[tuple[str, str, list[nn.Module]]]:
    """Name the rows: the module that is watched first, then those counted with it."""
    features = dict(network.encoder.features.named_children())
    rows: list[tuple[str, str, list[nn.Module]]] = []
    for name, module in features.items():
        if name == "norm5":
            rows.append((name, "batch norm", [module]))
        elif isinstance(module, nn.Conv2d):
            norm = features[name.replace("conv0", "norm0").replace("pool0_conv", "pool0_norm")]
            rows.append((name, f"{_conv(module)}, batch norm, LeakyReLU", [module, norm]))
        elif name.startswith("denseblock"):
            rows.append((name, f"{len(list(module.children()))} dense layers", [module]))
        elif name.startswith("transition"):
            rows.append((name, "batch norm, ReLU, 1x1; skip, then 2x2 mean", [module]))
    for head, decoder in network.decoders.items():
        blocks = list(decoder.blocks)
        for i, block in enumerate(blocks):
            operation = f"transposed {_conv(block.up)}, {_conv(block.conv)}"
            rows.append((f"Dconv{len(blocks) - i}, {head}", operation, [block]))
        rows.append((f"prediction, {head}", _conv(decoder.predict), [decoder.predict]))
    return rows


def _conv(module: nn.Conv2d | nn.ConvTranspose2d) -> str:
    (height, width), stride = module.kernel_size, module.stride[0]
    return f"{height}x{width}" + (f" stride {stride}" if stride > 1 else "")


def build_architecture(runs: Sequence[Run]) -> Table:
    """Build Table I; the intro says how the networks of this report differ in width."""
    with torch.device("meta"):
        network = HDEDNet()
    layers = read_layers(network)
    total = sum(p.numel() for p in network.parameters())
    printed = published("I")
    rows = [_row(layer, printed.get(layer.name.split(",")[0], {})) for layer in layers]
    whole = printed.get("total", {}).get("parameters")
    rows.append(
        Row(
            "plain",
            "total",
            (
                Cell("encoder and two decoders", value="encoder and two decoders"),
                missing("a sum has no size"),
                missing("a sum has no size"),
                Cell(f"{total:,}", value=str(total)),
                Cell(whole.value, value=whole.value) if whole else missing(NOT_TRANSCRIBED),
            ),
        )
    )
    intro = (
        f"Read off the network by hooks, at width 1.0, for one image of {SIZE_PX}x{SIZE_PX}; "
        "the rows' parameters add up to the network's.",
        *_widths(runs),
    )
    part = Part("Width 1.0", COLUMNS, tuple(rows), heading="Layer")
    return Table("I", "table1", "Architecture of the network", (part,), intro)


def _row(layer: Layer, printed: Mapping[str, Published]) -> Row:
    height, width = layer.size
    size, channels = f"{height}x{width}", f"{layer.channels_in} → {layer.channels_out}"
    return Row(
        "plain",
        layer.name.replace("all_in_focus", "all-in-focus"),
        (
            Cell(layer.operation, value=layer.operation),
            Cell(size, value=size),
            Cell(channels, value=channels),
            Cell(f"{layer.parameters:,}", value=str(layer.parameters)),
            _compare(layer, printed),
        ),
    )


def _compare(layer: Layer, printed: Mapping[str, Published]) -> Cell:
    """Give the paper's row, and say whether ours is the same."""
    if not printed:
        return missing(NOT_TRANSCRIBED)
    ours = {
        "channels": {str(layer.channels_out), f"{layer.channels_in} -> {layer.channels_out}"},
        "scale": {f"1/{SIZE_PX // layer.size[0]}"},
        "size": {f"{layer.size[0]}x{layer.size[1]}"},
        "kernel": {layer.operation.split()[0]},
    }
    same = all(cell.value in ours[metric] for metric, cell in printed.items())
    text = ", ".join(
        {"channels": f"{c.value} channels", "scale": f"at {c.value}"}.get(metric, c.value).replace(
            "->", "→"
        )
        for metric, c in printed.items()
    )
    notes = tuple(c.note for c in printed.values() if c.note) if same else (DECODER_DIFFERENCE,)
    return Cell(f"{text}: {'same' if same else 'differs'}", value=text, notes=notes)


def _widths(runs: Sequence[Run]) -> list[str]:
    """Say how large the networks of this report are."""
    sizes: dict[str, list[str]] = {}
    for run in runs:
        t = run.training
        size = f"{network_title(t)}, width {t.model.width:g}, {t.parameters:,} parameters"
        sizes.setdefault(size, []).append(f"{dataset_title(run)} {run.variant}")
    texts = [f"{size} ({', '.join(dict.fromkeys(names))})" for size, names in sizes.items()]
    return [f"The networks of this report: {'; '.join(texts)}."] if texts else []
