"""Reading and checking params.yaml.

An unknown key, a wrong type or an invalid value raises HDEDError with one line that names the key.
The file is read with ruamel.yaml, as DVC does; PyYAML would read `1e-4` as a string.
"""

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hded.common.errors import HDEDError
from hded.common.files import read_text
from hded.common.heads import HEADS
from hded.config.schema import (
    NAME_PATTERN,
    OFFICIAL,
    CameraSettings,
    Convert,
    Defocus,
    Download,
    Evaluate,
    Name,
    Network,
    Run,
    Section,
    Train,
    Variant,
)
from hded.optics import Camera

T = TypeVar("T", bound=Section)


class Params(Section):
    """The contents of params.yaml."""

    run: Run
    download: dict[Name, Download]
    convert: Convert
    cameras: dict[Name, CameraSettings]
    defocus: Defocus
    network: Network
    train: Train
    variants: dict[Name, Variant]
    evaluate: Evaluate
    presets: dict[Name, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        for name in self.run.datasets:
            if name not in self.download:
                raise ValueError(
                    f"run.datasets: {name!r} does not exist; download has {list(self.download)}"
                )
        for name in self.run.cameras:
            if name not in self.cameras:
                raise ValueError(
                    f"run.cameras: {name!r} does not exist; cameras has {list(self.cameras)}"
                )
        for name in self.run.variants:
            if name not in self.variants:
                raise ValueError(
                    f"run.variants: {name!r} does not exist; variants has {list(self.variants)}"
                )
        for name, entry in self.download.items():
            _check_download(name, entry)
        for where, chosen in self._chosen_cameras():
            for name in chosen if isinstance(chosen, Mapping) else ():
                if name not in self.download:
                    raise ValueError(
                        f"{where}: the dataset {name!r} does not exist; download has "
                        f"{list(self.download)}"
                    )
        return self

    def _chosen_cameras(self) -> Iterator[tuple[str, Any]]:
        """Yield each setting that chooses cameras, with its key."""
        yield "defocus.camera", self.defocus.camera
        yield "evaluate.camera", self.evaluate.camera
        for name, variant in self.variants.items():
            yield f"variants.{name}.camera", variant.camera
            yield f"variants.{name}.evaluate.camera", variant.evaluate.get("camera")

    def source(self, dataset: str) -> Download:
        """Return the section `download` of a dataset."""
        if dataset not in self.download:
            raise HDEDError(
                f"dataset {dataset!r} does not exist; choose from {list(self.download)}"
            )
        return self.download[dataset]

    def variant(self, name: str) -> tuple[Network, Train, Evaluate]:
        """Return the sections network, train and evaluate with a variant's changes."""
        if name not in self.variants:
            raise HDEDError(f"variant {name!r} does not exist; choose from {list(self.variants)}")
        variant = self.variants[name]
        where = f"params.yaml: variants.{name}"
        network = _validate(Network, _merge(self.network, variant.network), f"{where}.network.")
        train = _validate(Train, _merge(self.train, variant.train), f"{where}.train.")
        _check_loss(network, train, f"{where}.train.loss")
        evaluate = _validate(
            Evaluate, _merge(self.evaluate, variant.evaluate), f"{where}.evaluate."
        )
        method = evaluate.restoration.method
        if method == "denoiser" and not network.denoiser:
            raise HDEDError(
                f"{where}.evaluate.restoration.method is denoiser, and network.denoiser is false; "
                "change one of them"
            )
        if method != "none" and "depth" not in network.heads:
            raise HDEDError(
                f"{where}.evaluate.restoration.method is {method}, which needs depth; add it to "
                "network.heads"
            )
        return network, train, evaluate

    def check_changes(self, name: str) -> None:
        """Raise HDEDError for an unknown key or a wrong type in a variant's changes.

        Whether its settings fit together is not checked: a variant that is not selected must not
        forbid a setting of all others. `variant` checks that.
        """
        variant = self.variants[name]
        for section, base, changes in (
            (Network, self.network, variant.network),
            (Train, self.train, variant.train),
            (Evaluate, self.evaluate, variant.evaluate),
        ):
            try:
                section.model_validate(_merge(base, changes), by_alias=True, by_name=False)
            except ValidationError as error:
                # `value_error` is what the sections' own rules raise
                wrong = [each for each in error.errors() if each["type"] != "value_error"]
                if wrong:
                    where = f"params.yaml: variants.{name}.{section.__name__.lower()}."
                    raise HDEDError(f"{where}{_most_helpful(wrong)}") from None

    @property
    def paper_rows(self) -> dict[str, str]:
        """Return the row of the paper's Table IV for each variant that has one."""
        return {name: v.paper_row for name, v in self.variants.items() if v.paper_row is not None}

    def training_dataset(self, variant: str, dataset: str) -> str:
        """Return the dataset whose images train a variant's network that is tested on `dataset`."""
        return self.variants[variant].train_on or dataset

    def camera_names(self, variant: str, dataset: str) -> tuple[str, ...]:
        """Return the cameras whose images of a dataset train a variant's network.

        There is one, or several for a network that reads an image from each of them together.
        """
        chosen, where = self.variants[variant].camera, f"variants.{variant}.camera"
        if chosen is None:
            chosen, where = self.defocus.camera, "defocus.camera"
        return self._rendered(chosen, where, dataset)

    def test_camera_names(self, variant: str, dataset: str) -> tuple[str, ...]:
        """Return the cameras whose images of a dataset test a variant's network."""
        _, _, evaluate = self.variant(variant)
        if evaluate.camera is None:
            return self.camera_names(variant, dataset)
        own = "camera" in self.variants[variant].evaluate
        where = f"variants.{variant}.evaluate.camera" if own else "evaluate.camera"
        return self._rendered(evaluate.camera, where, dataset)

    def _rendered(self, chosen: Any, where: str, dataset: str) -> tuple[str, ...]:
        """Return the names of a dataset's cameras; raises HDEDError where one is not rendered."""
        self.source(dataset)
        if isinstance(chosen, Mapping):
            if dataset not in chosen:
                raise HDEDError(f"params.yaml: {where}: names no camera for the dataset {dataset}")
            chosen, where = chosen[dataset], f"{where}.{dataset}"
        for name in chosen:
            self.camera(name, where)
            if name not in self.run.cameras:
                raise HDEDError(
                    f"params.yaml: {where}: nothing is rendered by the camera {name}; add it to "
                    "run.cameras"
                )
        return chosen

    def camera(self, name: str, where: str = "camera") -> tuple[Camera, ...]:
        """Return the camera of that name, once for each of its focus distances."""
        if name not in self.cameras:
            raise HDEDError(
                f"params.yaml: {where}: {name!r} does not exist; cameras has {list(self.cameras)}"
            )
        return self.cameras[name].build(name)

    def test_cameras(
        self, variant: str, dataset: str, evaluate: Evaluate
    ) -> tuple[Camera, ...] | None:
        """Return the cameras by which test frames are rendered anew; None to use the stored ones.

        They are the variant's, focused at `evaluate.focus_distance_m`.
        """
        focus_m = evaluate.focus_distance_m
        if focus_m is None:
            return None
        found = []
        for name in self.test_camera_names(variant, dataset):
            where = f"params.yaml: variants.{variant}.evaluate: cameras.{name}."
            changed = {**self.cameras[name].model_dump(), "focus_distance_m": focus_m}
            found += _validate(CameraSettings, changed, where).build(name)
        return tuple(found)


def load_params(path: Path) -> Params:
    """Read and validate params.yaml.

    Every variant's keys and types are checked; whether its settings fit together is checked for
    the variants in `run.variants`, and for another by `Params.variant`.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise HDEDError(f"{path}: cannot be read ({error})") from error
    try:
        raw = YAML(typ="safe", pure=True).load(StringIO(text))
    # a scalar that looks like a date or a number but is not raises other errors
    except (YAMLError, ValueError, LookupError, RecursionError) as error:
        raise HDEDError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise HDEDError(f"{path}: must be a mapping of sections, found {type(raw).__name__}")
    params = _validate(Params, raw, f"{path.name}: ")
    for name in params.variants:
        params.check_changes(name)
    for name in params.run.variants:
        _, train, evaluate = params.variant(name)
        if train.refocus == "on_the_fly" and params.defocus.renderer != "gather":
            raise HDEDError(
                f"params.yaml: variants.{name}: train.refocus is on_the_fly, which blurs by "
                f"`gather`, but defocus.renderer is {params.defocus.renderer}; change one of them"
            )
        for dataset in params.run.datasets:
            _check_cameras(params, name, dataset)
            params.test_cameras(name, dataset, evaluate)
    return params


def _check_cameras(params: Params, variant: str, dataset: str) -> None:
    """Raise HDEDError where a variant's cameras or its training images are not in `run`."""
    trained_on = params.training_dataset(variant, dataset)
    where = f"params.yaml: variants.{variant}"
    if trained_on not in params.run.datasets:
        raise HDEDError(f"{where}.train_on: {trained_on!r} is not in run.datasets; add it there")
    trained = params.camera_names(variant, trained_on)
    tested = params.test_camera_names(variant, dataset)
    if len(trained) != len(tested):
        raise HDEDError(
            f"{where}: the network reads {len(trained)} pictures, by {' and '.join(trained)}; "
            f"evaluate.camera has {len(tested)}, give as many"
        )


def _check_loss(network: Network, train: Train, where: str) -> None:
    """Raise HDEDError for a loss that the network has no output for."""
    loss = train.loss
    if "depth" in network.heads:
        if (loss.depth == "ordinal") != (network.readout == "ordinal"):
            raise HDEDError(
                f"{where}.depth is {loss.depth}, network.readout {network.readout}: ordinal goes "
                "with ordinal"
            )
        if loss.depth.startswith("coc") and network.readout != "coc":
            raise HDEDError(
                f"{where}.depth is {loss.depth}, network.readout {network.readout}: set it to coc"
            )
        trained_by = {"log": "log_l1", "coc": "coc_likelihood"}.get(network.readout)
        if loss.depth == "coc_likelihood" or network.confidence:
            if not network.confidence or loss.depth != trained_by:
                raise HDEDError(
                    f"{where}.depth is {loss.depth}, network.readout {network.readout}, confidence "
                    f"{str(network.confidence).lower()}: confidence is trained by log_l1 with the "
                    "readout log, by coc_likelihood with coc"
                )
        if network.confidence and loss.weighting != "fixed":
            raise HDEDError(
                f"{where}.weighting is {loss.weighting}, network.confidence true: it is trained by "
                "a likelihood, which may be negative, and no learned weight can balance that; set "
                "weighting to fixed"
            )
        if network.readout == "coc" and train.network_input == "sharp":
            raise HDEDError(
                f"{where[: -len('.loss')]}.network_input is sharp, network.readout coc: a sharp "
                "image shows no CoC; set the readout to metres"
            )
        if loss.depth == "reblur" and network.readout != "log":
            raise HDEDError(
                f"{where}.depth is reblur, network.readout {network.readout}: set it to log, which "
                "begins in the middle of the range; at 0 m blur is clamped and has no gradient"
            )
    if loss.consistency and set(network.heads) != set(HEADS):
        raise HDEDError(
            f"{where}.consistency: compares both outputs; network.heads needs depth and "
            "all_in_focus"
        )
    reblurs = loss.consistency or ("depth" in network.heads and loss.depth == "reblur")
    if reblurs and train.geometry == "resize":
        what = "consistency" if loss.consistency else "depth reblur"
        raise HDEDError(
            f"{where}: {what} blurs images by their lens, whose CoC is in pixels of the original "
            "image; set train.geometry to crop"
        )


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
        if isinstance(old, dict) and isinstance(value, Mapping):
            value = {**old, **value}
        merged[key] = value
    return merged


def _validate(section: type[T], raw: Mapping[str, Any], where: str) -> T:
    try:
        # only the keys of the file are allowed: `lambda`, not the attribute `lambda_`
        return section.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        raise HDEDError(f"{where}{_most_helpful(error.errors())}") from None


def _most_helpful(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return the error that helps most, in one line.

    An unknown key comes first: it often is a misspelling of one that is then missing.
    """
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    return _explain(".".join(str(part) for part in first["loc"]), first)


def _explain(key: str, error: Mapping[str, Any]) -> str:
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"{key} is not a known key; check its spelling and its place"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME_PATTERN:
        place = key.removesuffix(".[key]")
        return (
            f"{place}: a name has lower-case letters, digits and _, and begins with a letter; "
            f"rename {error['input']!r}"
        )
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} is {error['input']!r}: {message[:1].lower()}{message[1:]}"
