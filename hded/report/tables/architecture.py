"""Table I: the architecture, recorded from the network itself by hooks, and the paper's rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hded.network import HDEDNet
from hded.report.read.runs import Run
from hded.report.tables.captions import dataset_title, network_title
from hded.report.tables.model import Cell, Column, Part, Row, Table, missing
from hded.report.tables.published import PublishedCell, PublishedRow, published

SIZE_PX = 256
COLUMNS = (
    Column("operation", "operation", numeric=False),
    Column("size", f"output at {SIZE_PX}x{SIZE_PX}"),
    Column("channels", "channels"),
    Column("parameters", "parameters"),
    Column("paper", "paper", numeric=False),
)
PAPER_ROWS = {  # our name -> the paper's name; decoder rows have the same names
    "conv0": "Conv1",
    "transition1": "Conv2",
    "transition2": "Conv3",
    "transition3": "Conv4",
    "norm5": "Conv5",
    "prediction, depth": "Pred-depth",
    "prediction, all_in_focus": "Pred-deblurring",
}
NO_SUCH_ROW = "the paper's table has no such row"
DECODER_DIFFERENCE = (
    "the paper's decoder rows do not fit its 41 M parameters: a block from 1024 to 1024 channels "
    "alone would need 26 M in each head. Without that first row they equal ours one row later: the "
    "paper's Dconv4 is our Dconv5, and so on"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One row: the output of a part of the network for an image of 256x256."""

    name: str
    operation: str
    size: tuple[int, int]
    channels_in: int
    channels_out: int
    parameters: int


def read_layers(network: HDEDNet) -> list[Layer]:
    """Return the rows of Table I, from one run of `network` on the meta device (shapes only)."""
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
    """Return the rows: their names, and their modules, of which the first is hooked."""
    features = dict(network.encoder.features.named_children())  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
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
        blocks = list(decoder.blocks)  # pyright: ignore[reportArgumentType]
        for i, block in enumerate(blocks):
            operation = f"transposed {_conv(block.up)}, {_conv(block.conv)}"
            rows.append((f"Dconv{len(blocks) - i}, {head}", operation, [block]))
        rows.append((f"prediction, {head}", _conv(decoder.predict), [decoder.predict]))  # pyright: ignore[reportArgumentType]
    return rows


def _conv(module: nn.Conv2d | nn.ConvTranspose2d) -> str:
    (height, width), stride = module.kernel_size, module.stride[0]
    return f"{height}x{width}" + (f" stride {stride}" if stride > 1 else "")


def build_architecture(runs: Sequence[Run]) -> Table:
    """Return Table I; its intro states how the networks of this report differ in width."""
    with torch.device("meta"):
        network = HDEDNet()
    layers = read_layers(network)
    total = sum(p.numel() for p in network.parameters())
    printed = published("I")
    rows = [
        _row(layer, _printed_cells(layer, printed), given)
        for layer, given in zip(layers, _stage_inputs(layers), strict=True)
    ]
    whole = printed["total"].cells["parameters"]
    rows.append(
        Row(
            "plain",
            "total",
            (
                Cell("encoder and two decoders", value="encoder and two decoders"),
                missing("a sum has no size"),
                missing("a sum has no size"),
                Cell(f"{total:,}", value=str(total)),
                Cell(whole.value, value=whole.value, notes=(whole.note,)),
            ),
        )
    )
    intro = (
        f"Recorded from the network of width 1.0 for one image of {SIZE_PX}x{SIZE_PX}; the rows' "
        "parameters add up to the network's.",
        *_widths(runs),
    )
    part = Part("Width 1.0", COLUMNS, tuple(rows), heading="Layer")
    return Table("I", "table1", "Architecture of the network", (part,), intro)


def _stage_inputs(layers: Sequence[Layer]) -> list[int]:
    """Return the input channels of each row as the paper counts them.

    These are the output channels of the previous stage: an encoder stage ends with its transition,
    and the concatenated skip of a decoder block is not counted.
    """
    inputs, last = [], 3
    for layer in layers:
        if layer.name.startswith("Dconv5"):
            last = next(each.channels_out for each in layers if each.name == "norm5")
        inputs.append(last)
        if layer.name in PAPER_ROWS or layer.name.startswith("Dconv"):
            last = layer.channels_out
    return inputs


def _printed_cells(
    layer: Layer, printed: Mapping[str, PublishedRow]
) -> Mapping[str, PublishedCell]:
    name = PAPER_ROWS.get(layer.name, layer.name.split(",")[0])
    return printed[name].cells if name in printed else {}


def _row(layer: Layer, printed: Mapping[str, PublishedCell], channels_given: int) -> Row:
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
            _compare(layer, printed, channels_given),
        ),
    )


def _compare(layer: Layer, printed: Mapping[str, PublishedCell], channels_given: int) -> Cell:
    """Return the paper's row, and whether our size and channels equal it."""
    if not printed:
        return missing(NO_SUCH_ROW)
    ours = {
        "size": f"{layer.size[0]}x{layer.size[1]}",
        "channels": f"{channels_given} -> {layer.channels_out}",
    }
    same = all(cell.value == ours[metric] for metric, cell in printed.items())
    text = ", ".join(cell.value.replace("->", "→") for cell in printed.values())
    return Cell(
        f"{text}: {'same' if same else 'differs'}",
        value=text,
        notes=() if same else (DECODER_DIFFERENCE,),
    )


def _widths(runs: Sequence[Run]) -> list[str]:
    """Return the sizes of this report's networks, in words."""
    sizes: dict[str, list[str]] = {}
    for run in runs:
        t = run.training
        size = f"{network_title(t)}, width {t.model.width:g}, {t.parameters:,} parameters"
        sizes.setdefault(size, []).append(f"{dataset_title(run)} {run.variant}")
    texts = [f"{size} ({', '.join(dict.fromkeys(names))})" for size, names in sizes.items()]
    return [f"The networks of this report: {'; '.join(texts)}."] if texts else []
