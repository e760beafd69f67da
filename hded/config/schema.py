"""The sections of params.yaml as frozen, self-validating types.

Errors are pydantic's ValidationErrors; `hded.config.params` converts them to one line.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from hded.common.heads import Head
from hded.optics import MAX_COC_PX, SENSOR_WIDTH_M, Camera, Renderer, Sensor, SigmaRule, Subsampling

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# names become folders, DVC stages and MLflow runs
NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

# The choices of each setting, defined only here; the library's signatures use the same types.
Encoder = Literal["densenet121", "efficientnet_lite0", "efficientnet_lite2", "unet", "none"]
Decoder = Literal["transposed", "bilinear", "unet", "pyramid", "plain", "dilated", "neumann"]
Readout = Literal["metres", "log", "ordinal", "coc"]
Context = Literal["none", "spatial_pyramid"]
Cascade = Literal["none", "depth", "all_in_focus"]
Joint = Literal["add", "concat"]
Output = Literal["linear", "tanh"]
Init = Literal["identity", "normal"]
DepthLoss = Literal["l1", "log_l1", "ordinal", "surface", "reblur", "coc", "coc_likelihood"]
Gradient = Literal["forward", "prewitt"]
Content = Literal["charbonnier", "l1", "mse"]
Weighting = Literal["fixed", "uncertainty", "gradnorm"]
Geometry = Literal["crop", "resize"]
NetworkInput = Literal["defocused", "sharp"]
Precision = Literal["float32", "bf16"]
Device = Literal["auto", "cpu", "cuda"]

# encoders for which published weights are known
WITH_WEIGHTS = ("densenet121", "efficientnet_lite0", "efficientnet_lite2")

# Titles of the datasets that have official files, by their names in params.yaml. Their
# readers are registered in hded.datasets, which this module does not import: a stage that reads no
# raw files does not depend on the readers.
OFFICIAL = {"nyu": "NYU-Depth v2", "make3d": "Make3D"}
FASTEST = 0.5  # f-number at which a lens in air takes in light from all sides
RANDOM = "random"  # each frame has a focus distance drawn from its own depths


class Section(BaseModel):
    """A frozen mapping that refuses unknown keys and does not convert types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Run(Section):
    """The datasets, variants and seeds of which all combinations are computed.

    `cameras`: those by which every dataset is rendered.
    """

    datasets: Annotated[list[Name], Field(min_length=1)]
    cameras: Annotated[list[Name], Field(min_length=1)]
    variants: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> "Run":
        for key in ("datasets", "cameras", "variants", "seeds"):
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
    or a URL under which the official files lie. Of a folder: `depth_unit_m`, metres of one count of
    its depth images; `max_depth_m`; `max_residual`: see `hded.datasets.folder`.
    """

    source: Annotated[str, Field(min_length=1)]
    sample: SampleSize | None = None
    official: list[RemoteEntry] | None = None
    path: str | None = None
    depth_unit_m: Positive = 0.001
    max_depth_m: Positive = 10.0
    max_residual: Positive | None = None


class Convert(Section):
    """`subset`: the number of frames of each split to keep; null keeps all."""

    subset: Count | None = None


def _focal_lengths(value: Any) -> Any:
    """Validate a focal length [mm], or a list of several."""
    return _one_or_several(value, "a focal length; give millimetres above 0, or a list")


def _f_numbers(value: Any) -> Any:
    """Validate an f-number, or a list of several; None where the aperture is stated otherwise."""
    if value is None:
        return None
    return _one_or_several(value, "an f-number; give a number above 0, or a list")


def _one_or_several(value: Any, what: str) -> Any:
    numbers = value if isinstance(value, list | tuple) else [value]
    if not numbers or not all(map(_is_length, numbers)):
        raise ValueError(f"{value!r} is not {what}")
    return tuple(map(float, numbers)) if numbers is value else float(numbers[0])


def _ends(value: Any) -> Any:
    """Validate a number, or a list of the two ends between which one is drawn."""
    ends = value if isinstance(value, list | tuple) else (value, value)
    numbers = [isinstance(end, int | float) and not isinstance(end, bool) for end in ends]
    if len(ends) != 2 or not all(numbers) or not ends[0] <= ends[1]:
        raise ValueError(
            f"{value!r}: give a number, or a list of two that ascend, between which one is drawn"
        )
    return tuple(ends)


Ends = Annotated[Any, PlainValidator(_ends)]  # becomes a tuple of two


def _is_length(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0


def _camera_names(value: Any) -> Any:
    """Validate a camera's name, a list of several, or a mapping from datasets to either."""
    if isinstance(value, Mapping) and value:
        return {dataset: _camera_names(names) for dataset, names in value.items()}
    names = value if isinstance(value, list | tuple) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"{value!r} names no camera; give a name, a list of names, or one for each dataset"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{value!r} names one camera twice")
    return tuple(names)


# a camera, several for one network, or either for each dataset by its name; one becomes a tuple
CameraNames = Annotated[Any, PlainValidator(_camera_names)]


def _focus(value: Any) -> Any:
    """Validate a focus distance: a number [m], a list of several, or `random`."""
    if value == RANDOM:
        return value
    distances = value if isinstance(value, list | tuple) else [value]
    for distance in distances:
        if not _is_length(distance):
            raise ValueError(
                f"{distance!r} is not a distance; give metres above 0, a list of them, or "
                f"`{RANDOM}`"
            )
    if not distances or len(set(distances)) < len(distances):
        raise ValueError(f"{value!r}: give one or more distances, each once")
    return value if value is not distances else tuple(distances)


class Noise(Section):
    """The noise of a camera's sensor in linear light, see `hded.optics.sensor`."""

    shot: Ends = (0.0, 0.0)
    read: Ends = (0.0, 0.0)

    @model_validator(mode="after")
    def _in_range(self) -> "Noise":
        for name in ("shot", "read"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < 1:
                raise ValueError(f"{name} {high if low >= 0 else low} must be within 0 and 1")
        return self


class Jpeg(Section):
    """The JPEG compression of a camera: its quality, 1 to 100, and the subsampling of colours."""

    quality: Ends
    subsampling: Subsampling = "4:2:0"

    @model_validator(mode="after")
    def _in_range(self) -> "Jpeg":
        low, high = self.quality
        if not (isinstance(low, int) and isinstance(high, int) and 1 <= low <= high <= 100):
            raise ValueError(f"quality {list(self.quality)} must be whole numbers within 1 and 100")
        return self


class CameraSettings(Section):
    """A camera in a photographer's terms.

    `focal_length_mm`: a number, or a list of which each frame's lens has one, drawn with
    `focal_weights`. `aperture_mm` (diameter) or `f_number`; with neither, each frame has the
    aperture at which its largest CoC is `max_coc_px`. `focus_distance_m`: a number; a list, for one
    rendering of each frame at each distance; or `random`, drawn for each frame from its own depths.
    `sensor_width_mm`: of the sensor's part that the image shows, at the width that the image has
    before any crop or resize; `pixel_pitch_um` may be given instead. `softness_px`: see
    `hded.optics.ThinLens`; `noise` and `jpeg`: see `hded.optics.Sensor`, each a number or the two
    ends between which one is drawn for each image.
    `photographs`: it took the defocused photographs of a folder that has any; images of other
    datasets are rendered.
    """

    focal_length_mm: Annotated[Any, PlainValidator(_focal_lengths)]
    focal_weights: Annotated[list[Positive], Field(min_length=2)] | None = None
    aperture_mm: Positive | None = None
    f_number: Annotated[Any, PlainValidator(_f_numbers)] = None
    focus_distance_m: Annotated[Any, PlainValidator(_focus)]
    sensor_width_mm: Positive | None = None
    pixel_pitch_um: Positive | None = None
    max_coc_px: Annotated[float, Field(gt=0, le=1000)] = MAX_COC_PX
    sigma_rule: SigmaRule = "quarter"
    softness_px: Annotated[float, Field(ge=0, le=10)] = 0.0
    noise: Noise = Noise()
    jpeg: Jpeg | None = None
    photographs: bool = False

    @model_validator(mode="after")
    def _possible(self) -> "CameraSettings":
        for one, other in (("aperture_mm", "f_number"), ("sensor_width_mm", "pixel_pitch_um")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"has both {one} and {other}; leave one of them out")
        if self.sensor_width_mm is None and self.pixel_pitch_um is None:
            raise ValueError("has no sensor_width_mm and no pixel_pitch_um; give one of them")
        lengths = self.focal_length_mm if isinstance(self.focal_length_mm, tuple) else (0.0,)
        if self.focal_weights and len(self.focal_weights) != len(lengths):
            raise ValueError(
                f"focal_weights has {len(self.focal_weights)} entries, focal_length_mm "
                f"{len(lengths)}; give as many"
            )
        for camera in self.build(""):
            aperture_m = camera.aperture_m or math.inf
            f_number = min(camera.f_numbers or [min(camera.focal_lengths_m) / aperture_m])
            if 0 < f_number < FASTEST:
                raise ValueError(
                    f"f/{f_number:.3g} is brighter than any lens (f/{FASTEST:g} is the limit in "
                    "air); check the units: lengths are in millimetres"
                )
            focus_m, longest_m = camera.focus_distance_m, max(camera.focal_lengths_m)
            if focus_m is not None and focus_m <= longest_m:
                raise ValueError(
                    f"focus_distance_m {focus_m} does not exceed the focal length "
                    f"{longest_m:g} m; choose a larger distance"
                )
        return self

    @property
    def sensor(self) -> Sensor:
        """Return the camera's noise and compression."""
        ends = {"shot": self.noise.shot, "read": self.noise.read}
        if self.jpeg is None:
            return Sensor(**ends)
        return Sensor(**ends, quality=self.jpeg.quality, subsampling=self.jpeg.subsampling)

    def build(self, name: str) -> tuple[Camera, ...]:
        """Return the camera of that name, once for each focus distance."""
        lengths = self.focal_length_mm
        camera = Camera(
            name=name,
            focal_length_m=tuple(map(_metres, lengths))
            if isinstance(lengths, tuple)
            else _metres(lengths),
            focal_weights=tuple(self.focal_weights or ()),
            aperture_m=None if self.aperture_mm is None else _metres(self.aperture_mm),
            f_number=self.f_number,
            pixel_pitch_m=None if self.pixel_pitch_um is None else _scaled(self.pixel_pitch_um, 6),
            sensor_width_m=SENSOR_WIDTH_M
            if self.sensor_width_mm is None
            else _metres(self.sensor_width_mm),
            max_coc_px=self.max_coc_px,
            sigma_rule=self.sigma_rule,
            softness_px=self.softness_px,
            sensor=self.sensor,
            photographs=self.photographs,
        )
        focus = self.focus_distance_m
        return tuple(
            replace(camera, focus_distance_m=None if f == RANDOM else float(f))
            for f in (focus if isinstance(focus, tuple) else (focus,))
        )


def _metres(millimetres: float) -> float:
    return _scaled(millimetres, 3)


def _scaled(value: float, digits: int) -> float:
    """Return value / 10^digits as the float nearest to that decimal: 5.6 um are 5.6e-6 m."""
    return float(Decimal(str(value)).scaleb(-digits))


class Defocus(Section):
    """The settings that all renderings share.

    `camera`: the name of one, or one for each dataset by its name. A variant may name another
    camera, or a list of cameras: the network then reads one picture by each of them.
    """

    camera: CameraNames = ("paper",)
    renderer: Renderer = "gather"
    seed: Seed = 0


class Network(Section):
    """The arguments of `hded.network.HDEDNet`.

    `depth_scale_m` null: the dataset's largest depth; `depth_range_m` null: from 0.7 m to just
    beyond it.

    `weights` at the start: `none`, `imagenet`, `hded` (the network that comes with the project), a
    path or a URL (see `hded.network.weights`);
    `weights_for`: whether they are the encoder's, or those of a whole network of the same kind that
    this program trained.
    """

    encoder: Encoder = "densenet121"
    decoder: Decoder = "transposed"
    heads: Annotated[list[Head], Field(min_length=1)]
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    depth_scale_m: Positive | None = None
    depth_range_m: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    readout: Readout = "metres"
    confidence: bool = False
    reads_lens: bool = False
    context: Context = "none"
    cascade: Cascade = "none"
    denoiser: bool = False
    dropout: Fraction = 0.5
    joint: Joint = "add"
    output: Output = "linear"
    init: Init = "identity"
    weights: Annotated[str, Field(min_length=1)] = "none"
    weights_for: Literal["encoder", "network"] = "encoder"

    @model_validator(mode="after")
    def _possible(self) -> "Network":
        if self.weights_for == "network" and self.weights in ("none", "imagenet"):
            raise ValueError(
                f"weights_for: network needs the file of a trained network, and weights is "
                f"{self.weights}; give its path"
            )
        if self.weights == "imagenet" and self.width != 1:
            raise ValueError(f"weights: imagenet needs width 1.0, not {self.width}")
        own = self.weights == "none" or self.weights_for == "network"
        if not own and self.encoder not in WITH_WEIGHTS:
            raise ValueError(
                f"weights: the encoder {self.encoder} has no published weights; set weights to none"
            )
        for encoder, decoders in (("unet", ("unet",)), ("none", ("plain", "dilated", "neumann"))):
            if (self.encoder == encoder) != (self.decoder in decoders):
                raise ValueError(
                    f"decoder {self.decoder} does not fit the encoder {self.encoder}: "
                    f"{' or '.join(decoders)} goes with the encoder {encoder}"
                )
        if self.decoder == "neumann" and self.heads != ["all_in_focus"]:
            raise ValueError("decoder neumann restores: heads must be [all_in_focus]")
        if self.cascade != "none" and (self.cascade not in self.heads or "depth" not in self.heads):
            raise ValueError(
                f"cascade {self.cascade}: a second network reads the depth of a first; heads needs "
                + " and ".join(dict.fromkeys(("depth", self.cascade)))
            )
        if self.encoder == "none" and (self.context != "none" or self.cascade != "none"):
            raise ValueError("encoder none: leave context and cascade at none")
        if self.confidence and (self.readout not in ("log", "coc") or "depth" not in self.heads):
            raise ValueError("confidence is that of the readouts log and coc; set readout to one")
        if self.encoder == "none" and self.reads_lens:
            raise ValueError("encoder none: has no feature maps; set reads_lens to false")
        if self.depth_range_m and self.depth_range_m[0] >= self.depth_range_m[1]:
            raise ValueError(f"depth_range_m {self.depth_range_m} must ascend")
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads {self.heads} names one twice")
        return self


class Loss(Section):
    """The terms of the loss and their weights, arguments of `hded.training.losses.HDEDLoss`.

    depth = L1 + mu * gradient, or another of the depth losses; deblurring = content + psi * (1 -
    SSIM) + frequency * (L1 between Fourier transforms); total = depth + lambda * deblurring +
    consistency * (the defocused image against the estimated sharp one, blurred by the estimated
    depth). A term with weight 0 is not computed.
    `weighting` is the method that weights the two tasks; lambda is used by `fixed`, and always for
    validation. The defaults are the paper's.
    """

    # in params.yaml the key is `lambda`, which Python does not allow as a name
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    depth: DepthLoss = "l1"
    mu: NonNegative = 0.001
    gradient: Gradient = "forward"
    content: Content = "charbonnier"
    psi: NonNegative = 4.0
    frequency: NonNegative = 0.0
    lambda_: Annotated[NonNegative, Field(alias="lambda")] = 0.01
    consistency: NonNegative = 0.0
    weighting: Weighting = "fixed"


class Train(Section):
    """Settings of training, arguments of `hded.training.loop.fit`.

    The defaults follow the paper and its released code, except that `geometry` is crop, where the
    paper resizes, and that frames are held out for validation. `batch_size` is
    that of a step, summed over all devices of all nodes (machines).
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
    lr_milestone: Factor = 0.6
    lr_gamma: Factor = 0.1
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    checkpoint: Literal["best", "last"] = "best"
    refocus: Literal["stored", "on_the_fly"] = "stored"
    reduce: Annotated[list[Factor], Field(min_length=2, max_length=2)] = [1.0, 1.0]
    network_input: NetworkInput = "defocused"
    precision: Precision = "float32"
    compile: bool = False
    deterministic: bool = False
    checkpoint_minutes: NonNegative = 10.0
    memory: Literal["auto", "resident", "stream"] = "auto"
    devices: Count = 1
    nodes: Count = 1
    device: Device = "auto"
    loss: Loss = Loss()

    @model_validator(mode="after")
    def _selectable(self) -> "Train":
        if self.size_px % 32:
            raise ValueError(f"size_px {self.size_px} is not a multiple of the network's stride 32")
        if self.batch_size % (self.devices * self.nodes):
            among = f"devices {self.devices}" + (f" x nodes {self.nodes}" if self.nodes > 1 else "")
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of {among}, which share it equally"
            )
        if self.reduce[0] > self.reduce[1]:
            raise ValueError(f"reduce {self.reduce} must ascend")
        if self.reduce[0] < 1 and (self.geometry, self.refocus) != ("crop", "on_the_fly"):
            raise ValueError(
                f"reduce {self.reduce}: frames are reduced before they are blurred and cropped; it "
                "needs refocus: on_the_fly and geometry: crop"
            )
        if self.checkpoint == "best" and self.val_fraction == 0:
            raise ValueError(
                "checkpoint: best needs validation frames; set val_fraction above 0, or "
                "checkpoint: last"
            )
        return self


class Restoration(Section):
    """Deconvolution in place of an all-in-focus head, arguments of `hded.deconvolution`.

    `method`: none | total_variation | denoiser (the network's own, `network.denoiser`). `depth`:
    the network's estimate, or the true depth, for a control. `weight` of the prior; `iterations`,
    each with `steps` of conjugate gradients. `precision`: of the denoiser.
    """

    method: Literal["none", "total_variation", "denoiser"] = "none"
    depth: Literal["estimated", "ground_truth"] = "estimated"
    weight: Positive = 1e-4
    iterations: Count = 3
    steps: Count = 8
    precision: Precision = "float32"

    @property
    def reads_true_depth(self) -> bool:
        """Return whether it deconvolves by the true depth: a control."""
        return self.method != "none" and self.depth == "ground_truth"


class Evaluate(Section):
    """Settings of evaluation.

    `examples`: number of test renderings that the report shows, including best, median and worst.
    `network_input: sharp` and `focus_distance_m` are for controls: all-in-focus images, or images
    with another focus distance than in training. `robustness_frames`: number of test renderings
    that are also degraded by noise and compression. `camera`: the cameras of the test images, as in
    `Defocus`; null: those of the training images. `restoration`: how the all-in-focus image is
    computed where that is not the network's. `hflip`: the outputs are the mean of those of the
    image and of its mirror image, in twice the time. `batch_size`: number of images that the
    network gets at once on `device`.
    """

    examples: Annotated[int, Field(ge=3)] = 6
    network_input: NetworkInput = "defocused"
    focus_distance_m: Positive | None = None
    camera: CameraNames | None = None
    robustness_frames: Annotated[int, Field(ge=0)] = 0
    restoration: Restoration = Restoration()
    hflip: bool = False
    batch_size: Count = 1
    device: Device = "auto"

    @model_validator(mode="after")
    def _one_control(self) -> "Evaluate":
        if self.network_input == "sharp" and self.focus_distance_m is not None:
            raise ValueError(
                "network_input: sharp has no focus distance; leave focus_distance_m null"
            )
        if self.network_input == "sharp" and self.camera is not None:
            raise ValueError("network_input: sharp is by no camera; leave camera null")
        if self.network_input == "sharp" and self.restoration.method != "none":
            raise ValueError(
                "restoration: there is nothing to restore with network_input: sharp; set its "
                "method to none"
            )
        return self


class Variant(Section):
    """A named set of changes to `network`, `train` and `evaluate`, and perhaps another camera.

    `paper_row`: the row of the paper's Table IV beside which the variant is shown. `camera`: see
    `Defocus`; null: that of `defocus`. `train_on`: the dataset whose images train the network,
    which is then tested on every dataset; null: each dataset has a network of its own.
    """

    description: str
    paper_row: str | None = None
    camera: CameraNames | None = None
    train_on: Name | None = None
    network: dict[str, Any] = {}
    train: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
