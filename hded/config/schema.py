"""The sections of params.yaml as frozen, self-validating types.

Errors are pydantic's ValidationErrors; `hded.config.params` converts them to one line.
"""

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from hded.optics import CAMERAS, AnyCamera, Camera, Renderer, SigmaRule, SyndofCamera

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# names become folders, DVC stages and MLflow runs
NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

# The choices of each setting, defined only here; the library's signatures use the same types.
Encoder = Literal["densenet121", "efficientnet_lite0", "efficientnet_lite2"]
Decoder = Literal["transposed", "bilinear"]
Joint = Literal["add", "concat"]
Output = Literal["linear", "tanh"]
Init = Literal["identity", "normal"]
Gradient = Literal["forward", "prewitt"]
Weighting = Literal["fixed", "uncertainty", "gradnorm"]
Geometry = Literal["crop", "resize"]
NetworkInput = Literal["defocused", "sharp"]
Precision = Literal["float32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]

# Titles of the datasets that have official files, by their names in params.yaml. Their
# readers are registered in hded.datasets, which this module does not import: a stage that reads no
# raw files does not depend on the readers.
OFFICIAL = {"nyu": "NYU-Depth v2", "make3d": "Make3D"}
RANDOM = "random"  # each frame has a focus distance drawn from its own depths


class Section(BaseModel):
    """A frozen mapping that refuses unknown keys and does not convert types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Run(Section):
    """The datasets, variants and seeds of which all combinations are computed."""

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
    """The size of the embedded sample."""

    train: Count
    test: Count
    seed: Seed = 1


class RemoteEntry(Section):
    """One official file: its URLs in order; size and sha256 where they are known."""

    name: str
    urls: Annotated[list[str], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    size: Count | None = None


class Download(Section):
    """The source of a dataset's raw files.

    `source`: sample | official | folder (a user's own images at `path`), or the path of a folder
    or a URL under which the official files lie.
    """

    source: Annotated[str, Field(min_length=1)]
    sample: SampleSize | None = None
    official: list[RemoteEntry] | None = None
    path: str | None = None
    depth_unit_m: Positive = 0.001
    max_depth_m: Positive = 10.0


class Convert(Section):
    """`subset`: the number of frames of each split to keep; null keeps all."""

    subset: Count | None = None


def _focus(value: Any) -> Any:
    """Validate a focus distance: a number [m], a list of several, `random`, or None."""
    if value is None or value == RANDOM:
        return value
    distances = value if isinstance(value, list | tuple) else [value]
    for distance in distances:
        number = isinstance(distance, int | float) and not isinstance(distance, bool)
        if not (number and math.isfinite(distance) and distance > 0):
            raise ValueError(
                f"{distance!r} is not a distance; give metres above 0, a list of them, `{RANDOM}`, "
                "or null"
            )
    if not distances or len(set(distances)) < len(distances):
        raise ValueError(f"{value!r}: give one or more distances, each once")
    return value if value is not distances else tuple(distances)


class Defocus(Section):
    """The camera; a value that is null is the named camera's own.

    `focus_distance_m`: a number [m]; a list, for one rendering of each frame at each distance; or
    `random`, for each frame from its own depths.
    """

    camera: str = "paper"
    renderer: Renderer = "gather"
    seed: Seed = 0
    focus_distance_m: Annotated[Any, PlainValidator(_focus)] = None
    focal_length_m: Positive | None = None
    aperture_m: Positive | None = None
    max_coc_px: Annotated[float, Field(gt=0, le=1000)] | None = None
    sigma_rule: SigmaRule | None = None

    @model_validator(mode="after")
    def _possible(self) -> "Defocus":
        if self.camera not in CAMERAS:
            raise ValueError(f"camera {self.camera!r} does not exist; choose from {list(CAMERAS)}")
        for camera in self.cameras():
            if not isinstance(camera, Camera) or camera.focus_distance_m is None:
                continue
            focus_m = camera.focus_distance_m
            if focus_m <= camera.focal_length_m:
                raise ValueError(
                    f"focus_distance_m {focus_m} does not exceed the focal length "
                    f"{camera.focal_length_m}; choose a larger distance"
                )
        return self

    def cameras(self) -> tuple[AnyCamera, ...]:
        """Return the camera with the values of this section, once for each focus distance."""
        own = self.model_dump(exclude={"camera", "renderer", "seed"}, exclude_none=True)
        camera = CAMERAS[self.camera]
        if isinstance(camera, SyndofCamera) and own.get("focus_distance_m") == RANDOM:
            del own["focus_distance_m"]  # this camera always draws it
        for key in own:
            if not hasattr(camera, key):
                raise ValueError(f"{key}: the {self.camera} camera draws it for each frame")
        if "focus_distance_m" not in own:
            return (replace(camera, **own),)
        focus = own.pop("focus_distance_m")
        return tuple(
            replace(camera, **own, focus_distance_m=None if f == RANDOM else f)
            for f in (focus if isinstance(focus, tuple) else (focus,))
        )


class Network(Section):
    """The arguments of `hded.network.HDEDNet`; `depth_scale_m` null: the dataset's depth range.

    `weights` of the encoder: `none`, `imagenet`, a path or a URL (see `hded.network.weights`).
    """

    encoder: Encoder = "densenet121"
    decoder: Decoder = "transposed"
    heads: Annotated[list[Literal["depth", "all_in_focus"]], Field(min_length=1)]
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    depth_scale_m: Positive | None = None
    dropout: Fraction = 0.5
    joint: Joint = "add"
    output: Output = "linear"
    init: Init = "identity"
    weights: Annotated[str, Field(min_length=1)] = "none"

    @model_validator(mode="after")
    def _possible(self) -> "Network":
        if self.weights == "imagenet" and self.width != 1:
            raise ValueError(f"weights: imagenet needs width 1.0, not {self.width}")
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads {self.heads} names one twice")
        return self


class Loss(Section):
    """The terms of the loss and their weights, arguments of `hded.training.losses.HDEDLoss`.

    depth = L1 + mu * gradient; deblurring = content + psi * (1 - SSIM); total = depth + lambda *
    deblurring. A term with weight 0 is not computed. `weighting` is the method that weights the two
    tasks; lambda is used by `fixed`, and always for validation. The defaults are the paper's.
    """

    # in params.yaml the key is `lambda`, which Python does not allow as a name
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    mu: NonNegative = 0.001
    gradient: Gradient = "forward"
    content: Literal["charbonnier", "l1"] = "charbonnier"
    psi: NonNegative = 4.0
    lambda_: Annotated[NonNegative, Field(alias="lambda")] = 0.01
    weighting: Weighting = "fixed"


class Train(Section):
    """Settings of training, arguments of `hded.training.loop.fit`.

    The defaults are those of the paper and its released code, except that frames are held out for
    validation. `batch_size` is that of a step, summed over all devices.
    """

    epochs: Count
    batch_size: Count = 4
    geometry: Geometry = "crop"
    size_px: Annotated[int, Field(ge=32)] = 256
    hflip: Annotated[float, Field(ge=0, le=1)] = 0.5
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Positive = 2e-4
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.5, 0.999]
    momentum: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    schedule: Literal["step", "one_cycle"] = "step"
    val_interval: Count = 5
    lr_milestone: Annotated[float, Field(gt=0, le=1)] = 0.6
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    checkpoint: Literal["best", "last"] = "best"
    refocus: Literal["stored", "on_the_fly"] = "stored"
    network_input: NetworkInput = "defocused"
    precision: Precision = "float32"
    compile: bool = False
    deterministic: bool = False
    checkpoint_minutes: NonNegative = 10.0
    devices: Count = 1
    device: Device = "auto"
    loss: Loss = Loss()

    @model_validator(mode="after")
    def _selectable(self) -> "Train":
        if self.size_px % 32:
            raise ValueError(f"size_px {self.size_px} is not a multiple of the network's stride 32")
        if self.batch_size % self.devices:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of devices {self.devices}, which "
                "share it equally"
            )
        if self.checkpoint == "best" and self.val_fraction == 0:
            raise ValueError(
                "checkpoint: best needs validation frames; set val_fraction above 0, or "
                "checkpoint: last"
            )
        return self


class Evaluate(Section):
    """Settings of evaluation.

    `examples`: number of test renderings that the report shows, including best, median and worst.
    `network_input: sharp` and `focus_distance_m` are for controls: all-in-focus images, or images
    with another focus distance than in training. `batch_size`: number of images that the network
    gets at once on `device`.
    """

    examples: Annotated[int, Field(ge=3)] = 6
    network_input: NetworkInput = "defocused"
    focus_distance_m: Positive | None = None
    batch_size: Count = 1
    device: Device = "auto"

    @model_validator(mode="after")
    def _one_control(self) -> "Evaluate":
        if self.network_input == "sharp" and self.focus_distance_m is not None:
            raise ValueError(
                "network_input: sharp has no focus distance; leave focus_distance_m null"
            )
        return self


class Variant(Section):
    """A named set of changes to `network`, `train` and `evaluate`."""

    description: str
    network: dict[str, Any] = {}
    train: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
