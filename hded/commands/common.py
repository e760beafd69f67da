"""Helpers of the commands: photographs, their lenses, networks, and files to write."""

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from hded.common import pretrained
from hded.common.errors import HDEDError
from hded.common.files import is_hidden
from hded.common.heads import HEADS
from hded.inference import Predictor, load_predictor
from hded.inference.photo import Photo, read_photo
from hded.inference.view import View, view_of
from hded.optics.photograph import StatedLens

RESULTS = Path("hded-results")  # in the current folder, unless the user says otherwise
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
# photographs, too, which Pillow does not read
UNREADABLE = (
    ".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2",
)  # fmt: skip
LENS = {  # what is stated, its option, the option's text, and its unit
    "focal_length_m": ("focal-length-mm", "of the lens itself, not its 35 mm equivalent", 1e-3),
    "f_number": ("f-number", "such as 2.8", 1.0),
    "focus_distance_m": ("focus-distance-m", "from the lens to what is in focus", 1.0),
    "sensor_width_m": ("sensor-width-mm", "of the photograph's long side", 1e-3),
}


def add_lens(parser: ArgumentParser, prefix: str = "") -> None:
    """Add the options that state a photograph's lens; their names begin with `prefix`."""
    group = parser.add_argument_group("lens", "of all the photographs, instead of their EXIF")
    for option, text, _ in LENS.values():
        group.add_argument(f"--{prefix}{option}", type=positive, help=text)


def stated_lens(arguments: Namespace, prefix: str = "") -> StatedLens:
    """Return the lens of the options that `add_lens` added."""
    found = {}
    for name, (option, _, unit) in LENS.items():
        value = getattr(arguments, f"{prefix}{option}".replace("-", "_"))
        found[name] = None if value is None else value * unit
    return StatedLens(**found)


def positive(text: str) -> float:
    """Return a positive number; raises ValueError for any other text."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def add_network(parser: ArgumentParser, out: str = "", default: Path | None = None) -> None:
    """Add the options that name the network and, with a text about it, where results go.

    default: where they go unless the user says so; None asks for it.
    """
    parser.add_argument(
        "--checkpoint",
        default=pretrained.DEFAULT,
        help="the weights.safetensors of a trained network, or the name of one that comes with the "
        f"project: {', '.join(pretrained.NETWORKS)} (default: {pretrained.DEFAULT})",
    )
    if out:
        known = "" if default is None else f" (default: {default})"
        parser.add_argument(
            "--out", required=default is None, default=default, type=Path, help=out + known
        )


def load_network(
    checkpoint: str,
    device: str = "cpu",
    heads: Sequence[str] | None = None,
    *,
    hflip: bool = False,
) -> Predictor:
    """Return the network of the option `--checkpoint`, with these heads, or all of its own."""
    check_device(device)
    path = pretrained.find(checkpoint) or Path(checkpoint)
    return load_predictor(path, device, heads, hflip=hflip)


def load_for_photographs(
    checkpoint: str, device: str, heads: Sequence[str] | None = None, *, hflip: bool = False
) -> Predictor:
    """Return a network that reads one photograph; raises HDEDError for one that reads several."""
    predictor = load_network(checkpoint, device, heads, hflip=hflip)
    if (shots := predictor.network.shots) > 1:
        raise HDEDError(
            f"{checkpoint}: reads {shots} images of one scene at once, each by a camera of its "
            "own; give a network that reads one photograph"
        )
    return predictor


def load_both_heads(checkpoint: str, device: str, purpose: str) -> Predictor:
    """Return a network with both heads; raises HDEDError, naming the purpose, for any other."""
    predictor = load_for_photographs(checkpoint, device)
    if lacking := set(HEADS) - set(predictor.network.heads):
        raise HDEDError(
            f"{checkpoint}: {purpose} needs a network with both heads; it lacks "
            f"{', '.join(sorted(lacking))}"
        )
    return predictor


def add_device(parser: ArgumentParser) -> None:
    """Add the option that chooses the device."""
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))


def check_device(device: str) -> None:
    """Raise HDEDError for a device that this machine does not have."""
    if device == "cuda" and not torch.cuda.is_available():
        raise HDEDError("--device: cuda is not available on this machine; use cpu")


def photographs(paths: Sequence[Path], out: Path) -> list[Path]:
    """Return the photographs, those in folders in the order of their names.

    out: the folder for the results. Raises HDEDError for a folder without any photograph, for two
    photographs of one name, whose results would overwrite each other, and for one that lies in
    `out`, whose other files the results might overwrite.
    """
    found = list(_inside(paths))
    twice = [name for name, n in Counter(path.stem for path in found).items() if n > 1]
    if twice:
        raise HDEDError(
            f"two images are named {twice[0]}; rename one, or its results overwrite the other's"
        )
    for path in found:
        if path.parent.resolve() == out.resolve():
            raise HDEDError(
                f"--out: {out} is the folder of {path.name}; choose another one, so that results "
                "overwrite none of your files and are not taken for photographs"
            )
    return found


def _inside(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
        inside = [p for p in inside if not is_hidden(p.name)]
        if not inside:
            raise HDEDError(f"{path}: has no photograph ({', '.join(SUFFIXES)})")
        left = [p.name for p in sorted(path.iterdir()) if p.suffix.lower() in UNREADABLE]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            print(
                f"{path}: leaves out {left[0]}{more}; convert HEIC and raw files to JPEG, PNG or "
                "TIFF",
                file=sys.stderr,
            )
        yield from inside


def open_photo(
    path: Path, predictor: Predictor, options: StatedLens
) -> tuple[Photo, StatedLens, View]:
    """Return a photograph, its lens by the options or else by EXIF, and its way to the network.

    Raises HDEDError, naming the path, for a file or a lens that cannot be used.
    """
    photo = read_photo(path)
    stated = options.or_else(photo.lens)
    height, width = photo.rgb.shape[:2]
    try:
        return photo, stated, view_of(predictor, (height, width), stated)
    except HDEDError as error:
        raise HDEDError(f"{path}: {error}") from error


def make_folder(folder: Path) -> None:
    """Make a folder for results; raises HDEDError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HDEDError(f"{folder}: cannot be created ({error.strerror})") from error


def save(write: Callable[[Path], None], path: Path) -> None:
    """Write a file; raises HDEDError, and leaves none, where that cannot be done."""
    try:
        write(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise HDEDError(f"{path}: cannot be written ({error.strerror or error})") from error
