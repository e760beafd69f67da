"""Reading image files of users, with clear errors."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hded.common.errors import HDEDError, first_line

ORIENTATION = 0x0112  # the EXIF tag
SWAPPED = (5, 6, 7, 8)  # its values that swap width and height
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands


def open_image(path: Path | BinaryIO) -> Image.Image:
    """Return a fully decoded image; raises HDEDError where it cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise HDEDError(f"{path}: no such file") from None
    # damaged files make pillow, zlib and struct raise many kinds of errors
    except Exception as error:
        if _is_heic(path):
            raise HDEDError(
                f"{_name(path)}: is HEIC, which only further libraries open, such as pillow-heif; "
                "save it as JPEG or PNG"
            ) from error
        raise _unreadable(path, error) from error


def _is_heic(path: Path | BinaryIO) -> bool:
    try:
        if isinstance(path, Path):
            with path.open("rb") as stream:
                start = stream.read(12)
        else:
            path.seek(0)
            start = path.read(12)
    except OSError:
        return False
    return start[4:8] == b"ftyp" and start[8:12] in HEIC


def upright_size(path: Path) -> tuple[int, int]:
    """Return the size (H, W) of the image of `open_upright`, from the file's header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            swapped = image.getexif().get(ORIENTATION, 1) in SWAPPED
    except FileNotFoundError:
        raise HDEDError(f"{path}: no such file") from None
    except Exception as error:
        raise _unreadable(path, error) from error
    return (width, height) if swapped else (height, width)


def open_upright(path: Path | BinaryIO) -> Image.Image:
    """Return an image as RGB, upright according to its EXIF orientation.

    Raises HDEDError also for greyscale of more than 8 bits, which pillow would convert to white.
    """
    return open_turned(path)[0]


def open_turned(path: Path | BinaryIO) -> tuple[Image.Image, int]:
    """Return the image of `open_upright`, and the EXIF orientation, 1 to 8, that it had."""
    return turned_upright(open_image(path), path)


def turned_upright(image: Image.Image, path: Path | BinaryIO) -> tuple[Image.Image, int]:
    """Return what `open_turned` does, of an image that was opened from `path`."""
    if image.mode.startswith(("I", "F")):
        raise HDEDError(
            f"{_name(path)}: greyscale of more than 8 bits; save it with 8 bits per channel"
        )
    turn = orientation(image)
    try:
        # ImageOps.exif_transpose would write EXIF anew, which fails where a part of it is damaged
        return turned(image.convert("RGB"), turn), turn
    except Exception as error:
        raise _unreadable(path, error) from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 where there is none."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF makes pillow raise many kinds of errors
        return 1
    return turn if turn in range(1, 9) else 1


def turned(image: Image.Image, turn: int) -> Image.Image:
    """Return an image turned as one with EXIF orientation `turn` must be to stand upright."""
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def turned_array(pixels: NDArray, turn: int) -> NDArray:
    """Return pixels (H, W, ...) turned as an image with EXIF orientation `turn` must be."""
    if turn in SWAPPED:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if turn in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if turn in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def _unreadable(path: Path | BinaryIO, error: Exception) -> HDEDError:
    reason = first_line(error) if isinstance(path, Path) else "unknown or damaged"
    return HDEDError(f"{_name(path)}: cannot be read as an image ({reason})")


def _name(path: Path | BinaryIO) -> Path | str:
    return path if isinstance(path, Path) else "the file"
