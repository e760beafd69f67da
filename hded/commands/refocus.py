"""Render a photograph as another lens would have taken it: focused elsewhere, stopped down or open.

The photograph is restored and its depth estimated; PHOTO_refocused.png is the restored image,
blurred by that depth through the lens of `--focus-distance-m` and `--f-number`. Focal length and
sensor stay those of the photograph, or, where they are not known and the network was trained
through one lens, those of that lens. The lens that took it is that of the options `--taken-...`, or
else of EXIF. Given several focus distances, it writes an image for each,
PHOTO_refocused_1.5m.png.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path

from hded.commands.common import (
    LENS,
    RESULTS,
    add_device,
    add_lens,
    add_network,
    load_both_heads,
    make_folder,
    open_photo,
    photographs,
    positive,
    save,
    stated_lens,
)
from hded.common.deep_image import eight_bits
from hded.common.errors import HDEDError
from hded.common.progress import progress
from hded.inference.photo import Photo, estimate
from hded.inference.predictor import Predictor
from hded.inference.refocus import LARGEST_COC_PX, refocus
from hded.inference.view import View, taken_lens
from hded.optics import ThinLens
from hded.optics.photograph import StatedLens, with_lens

TAKEN = "taken-"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("images", nargs="+", type=Path, metavar="PHOTO")
    add_network(parser, "folder for the results", RESULTS)
    add_device(parser)
    parser.add_argument(
        "--focus-distance-m",
        type=positive,
        action="append",
        required=True,
        help="where to focus; given several times, an image for each",
    )
    parser.add_argument(
        "--f-number", type=positive, help="of the new lens (default: the photograph's)"
    )
    add_lens(parser, TAKEN)


def refocus_photographs(arguments: Namespace) -> None:
    """Run the command; a photograph that cannot be used does not stop the others."""
    paths = photographs(arguments.images, arguments.out)
    predictor = load_both_heads(arguments.checkpoint, arguments.device, "refocusing")
    options, failed = stated_lens(arguments, TAKEN), []
    bar = progress(paths, desc="refocus", unit="image")
    for path in bar:
        try:
            photo, stated, view = open_photo(path, predictor, options)
            lenses = _lenses(path, arguments, photo, stated, view, predictor)
        except HDEDError as error:
            failed.append(str(error))
            continue
        make_folder(arguments.out)
        found = estimate(predictor, photo.rgb, view=view)
        for note in (*view.notes, *found.notes):
            bar.write(f"{path}: {note}")
        assert found.all_in_focus is not None and found.depth is not None
        for end, lens in lenses.items():
            try:
                image = refocus(eight_bits(found.all_in_focus), found.depth, lens)
            except HDEDError as error:
                failed.append(f"{path}: {error}")
                break
            if photo.exif:
                photo = replace(photo, exif=with_lens(photo.exif, lens))
            save(partial(photo.save, image), arguments.out / f"{path.stem}_refocused{end}.png")
    if failed:
        raise HDEDError("; ".join(failed))


def _lenses(
    path: Path,
    arguments: Namespace,
    photo: Photo,
    stated: StatedLens,
    view: View,
    predictor: Predictor,
) -> dict[str, ThinLens]:
    """Return the new lenses, by the end of their files' names."""
    distances, long_side_px = arguments.focus_distance_m, max(photo.rgb.shape[:2])
    taken = taken_lens(predictor, stated, long_side_px)
    if view.unit != "m" or taken.missing:
        missing = ", ".join(f"--{TAKEN}{LENS[name][0]}" for name in stated.missing)
        raise HDEDError(f"{path}: refocusing needs the lens and depth in metres; state {missing}")
    found = {}
    for distance_m in distances:
        new = replace(
            taken, focus_distance_m=distance_m, f_number=arguments.f_number or taken.f_number
        )
        end = f"_{distance_m:g}m" if len(distances) > 1 else ""
        try:
            found[end] = new.lens(long_side_px, LARGEST_COC_PX, "quarter")
        except HDEDError as error:
            raise HDEDError(f"{path}: {error}") from error
    return found
