"""params.yaml as frozen, checked types.

An unknown key, a wrong type or an impossible value raises HDEDError with one line that names the
key. ruamel reads the file because DVC does: PyYAML would take `1e-4` for a string.
"""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hded.errors import HDEDError
from hded.optics import CAMERAS, AnyCamera, Camera, SigmaRule

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# names become folders, DVC stages and MLflow runs
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

OFFICIAL = ("nyu", "make3d")
T = TypeVar("T", bound="Section")


class Section(BaseModel):
    """A frozen mapping that refuses unknown keys and does not convert types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Run(Section):
    """Which cells of dataset x variant x seed are computed."""

    datasets: Annotated[list[Name], Field(min_length=1)]
    variants: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> "Run":
        for key in ("datasets", "variants", "seeds"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} {values} names one twice")
        return self


class SampleSize(Section):
    """How much of the embedded sample is generated."""

    train: Count
    test: Count
    seed: Seed = 1


class RemoteEntry(Section):
    """One official file: mirrors in turn; size and sha256 where they are known."""

    name: str
    urls: Annotated[list[str], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    size: Count | None = None


class Download(Section):
    """Where a dataset's raw files come from.

    `source`: sample | official | folder (a user's own pictures at `path`), or the path of a folder
    or a URL under which the official files lie.
    """

    source: Annotated[str, Field(min_length=1)]
    sample: SampleSize | None = None
    official: list[RemoteEntry] | None = None
    path: str | None = None
    depth_unit_m: Positive = 0.001
    max_depth_m: Positive = 10.0


class Convert(Section):
    """`subset`: keep so many frames of each split; null keeps all."""

    subset: Count | None = None


class Defocus(Section):
    """The camera; a value that is null is the named camera's own."""

    camera: str = "paper"
    seed: Seed = 0
    focus_distance_m: Positive | None = None
    focal_length_m: Positive | None = None
    aperture_m: Positive | None = None
    max_coc_px: Positive | None = None
    sigma: SigmaRule | None = None

    @model_validator(mode="after")
    def _possible(self) -> "Defocus":
        if self.camera not in CAMERAS:
            raise ValueError(f"camera {self.camera!r} does not exist; choose from {list(CAMERAS)}")
        camera = self.resolve()
        if isinstance(camera, Camera) and camera.focus_distance_m <= camera.focal_length_m:
            raise ValueError(
                f"focus_distance_m {camera.focus_distance_m} is at or inside the focal length "
                f"{camera.focal_length_m}; choose a larger distance"
            )
        return self

    def resolve(self) -> AnyCamera:
        """Give the camera with this section's own values in place."""
        names = {"sigma": "sigma_rule"}
        own = self.model_dump(exclude={"camera", "seed"}, exclude_none=True)
        camera = CAMERAS[self.camera]
        for key in own:
            if not hasattr(camera, names.get(key, key)):
                raise ValueError(f"{key}: the {self.camera} camera draws it for each picture")
        fields = {name: getattr(camera, name) for name in camera.__dataclass_fields__}
        return type(camera)(**{**fields, **{names.get(k, k): v for k, v in own.items()}})


class Network(Section):
    """The arguments of `hded.network.HDEDNet`; `depth_scale_m` null: the dataset's depth range."""

    heads: Annotated[list[Literal["depth", "all_in_focus"]], Field(min_length=1)]
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    depth_scale_m: Positive | None = None
    dropout: Fraction = 0.5
    joint: Literal["add", "concat"] = "add"
    output: Literal["linear", "tanh"] = "linear"
    init: Literal["identity", "normal"] = "identity"
    weights: Literal["none"] = "none"

    @model_validator(mode="after")
    def _distinct(self) -> "Network":
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads {self.heads} names one twice")
        return self


class Loss(Section):
    """The fields of `hded.losses.LossWeights`, by the paper's symbols."""

    mu: NonNegative = 0.001
    gradient: Literal["forward", "prewitt"] = "forward"
    content: Literal["charbonnier", "l1"] = "charbonnier"
    psi: NonNegative = 4.0
    lambda_: Annotated[NonNegative, Field(alias="lambda")] = 0.01


class Train(Section):
    """How a network is fitted."""

    epochs: Count
    batch_size: Count = 4
    geometry: Literal["crop", "resize"] = "crop"
    size_px: Annotated[int, Field(ge=32)] = 256
    hflip: Annotated[float, Field(ge=0, le=1)] = 0.5
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Positive = 2e-4
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.5, 0.999]
    momentum: Fraction = 0.0
    schedule: Literal["step", "one_cycle"] = "step"
    validate_every: Count = 5
    drop_at: Annotated[float, Field(gt=0, le=1)] = 0.6
    drop_to: Annotated[float, Field(gt=0, le=1)] = 0.1
    validation: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    keep: Literal["best", "last"] = "best"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    loss: Loss = Loss()

    @model_validator(mode="after")
    def _selectable(self) -> "Train":
        if self.size_px % 32:
            raise ValueError(f"size_px {self.size_px} is not a multiple of the network's stride 32")
        if self.keep == "best" and self.validation == 0:
            raise ValueError("keep: best needs validation frames; set validation > 0 or keep: last")
        return self


class Variant(Section):
    """A named set of changes to `network` and `train`."""

    description: str
    network: dict[str, Any] = {}
    train: dict[str, Any] = {}


class Evaluate(Section):
    """`scenes`: how many test scenes are pictured, best, median and worst among them."""

    scenes: Annotated[int, Field(ge=3)] = 6


class Params(Section):
    """The whole file."""

    run: Run
    download: dict[Name, Download]
    convert: Convert
    defocus: Defocus
    network: Network
    train: Train
    variants: dict[Name, Variant]
    evaluate: Evaluate
    presets: dict[Name, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        for name in self.run.datasets:
            if name not in self.download:
                raise ValueError(
                    f"run.datasets: {name!r} does not exist; download has {list(self.download)}"
                )
        for name in self.run.variants:
            if name not in self.variants:
                raise ValueError(
                    f"run.variants: {name!r} does not exist; variants has {list(self.variants)}"
                )
        for name, entry in self.download.items():
            _check_download(name, entry)
        return self

    def variant(self, name: str) -> tuple[Network, Train]:
        """Give the network and train sections with a variant's changes in place."""
        if name not in self.variants:
            raise HDEDError(f"variant {name!r} does not exist; choose from {list(self.variants)}")
        variant = self.variants[name]
        where = f"params.yaml: variants.{name}"
        return (
            _validate(Network, _merge(self.network, variant.network), f"{where}.network."),
            _validate(Train, _merge(self.train, variant.train), f"{where}.train."),
        )


def load_params(path: Path) -> Params:
    """Read and check params.yaml, every variant included."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HDEDError(f"{path}: cannot be read ({error})") from error
    try:
        raw = YAML(typ="safe", pure=True).load(StringIO(text))
    # a scalar that looks like a date or a number and is none raises plain errors
    except (YAMLError, ValueError, KeyError) as error:
        raise HDEDError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, Mapping):
        raise HDEDError(f"{path}: a mapping of sections is needed, found {type(raw).__name__}")
    params = _validate(Params, raw, f"{path.name}: ")
    for name in params.variants:
        params.variant(name)
    return params


def _check_download(name: str, entry: Download) -> None:
    where = f"download.{name}"
    if entry.source == "folder":
        if not entry.path:
            raise ValueError(f"{where}.path: is missing; a `folder` source needs one")
        return
    if name not in OFFICIAL:
        raise ValueError(
            f"{where}.source: {entry.source!r}; only {' and '.join(OFFICIAL)} have official files, "
            "a dataset of your own has source: folder"
        )
    if entry.source in ("sample", "official") and getattr(entry, entry.source) is None:
        raise ValueError(f"{where}.{entry.source}: is missing; source: {entry.source} needs it")


def _merge(section: Section, changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = section.model_dump(by_alias=True)
    for key, value in changes.items():
        old = merged.get(key)
        nested = isinstance(old, dict) and isinstance(value, Mapping)
        merged[key] = {**old, **value} if nested else value
    return merged


def _validate(section: type[T], raw: Mapping[str, Any], where: str) -> T:
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        # an unknown key first: it often is the misspelt one that is then "missing"
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        raise HDEDError(" ".join(f"{where}{_explain(key, first)}".split())) from None


def _explain(key: str, error: Mapping[str, Any]) -> str:
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"{key} is not a known key; check its spelling and its place"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} is {error['input']!r}: {message[:1].lower()}{message[1:]}"
