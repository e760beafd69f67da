"""Reading and checking params.yaml.

An unknown key, a wrong type or an invalid value raises HDEDError with one line that names the key.
The file is read with ruamel.yaml, as DVC does; PyYAML would read `1e-4` as a string.
"""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hded.common.errors import HDEDError
from hded.common.files import read_text
from hded.config.schema import (
    NAME_PATTERN,
    OFFICIAL,
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
        for name in self.run.variants:
            if name not in self.variants:
                raise ValueError(
                    f"run.variants: {name!r} does not exist; variants has {list(self.variants)}"
                )
        for name, entry in self.download.items():
            _check_download(name, entry)
        return self

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
        if train.refocus == "on_the_fly" and self.defocus.renderer != "gather":
            raise HDEDError(
                f"params.yaml: train.refocus is on_the_fly, which blurs by `gather`, but "
                f"defocus.renderer is {self.defocus.renderer}; change one of them"
            )
        evaluate = _validate(
            Evaluate, _merge(self.evaluate, variant.evaluate), f"{where}.evaluate."
        )
        return network, train, evaluate

    def test_camera(self, evaluate: Evaluate) -> Camera | None:
        """Return the camera with which test frames are rendered anew; None to use the stored ones.

        It is the camera of `defocus`, focused at `evaluate.focus_distance_m`.
        """
        if evaluate.focus_distance_m is None:
            return None
        changed = {**self.defocus.model_dump(), "focus_distance_m": evaluate.focus_distance_m}
        (camera,) = _validate(Defocus, changed, "params.yaml: evaluate: defocus.").cameras()
        assert isinstance(camera, Camera)  # one that draws its focus takes no distance
        return camera


def load_params(path: Path) -> Params:
    """Read and validate params.yaml, including every variant."""
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
        _, _, evaluate = params.variant(name)
        if name in params.run.variants:
            params.test_camera(evaluate)
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
        if isinstance(old, dict) and isinstance(value, Mapping):
            value = {**old, **value}
        merged[key] = value
    return merged


def _validate(section: type[T], raw: Mapping[str, Any], where: str) -> T:
    try:
        # only the keys of the file are allowed: `lambda`, not the attribute `lambda_`
        return section.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        # report an unknown key first: it often is a misspelling of one that is then missing
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        raise HDEDError(f"{where}{_explain(key, first)}") from None


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
