"""Images of 16 bits per channel, of which Pillow keeps 8."""

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hded.common.errors import HDEDError
from hded.common.resize import row_blocks

BITS, SAMPLE_FORMAT, UNSIGNED = 258, 339, 1  # tags of TIFF
Pixels = NDArray[np.uint8 | np.uint16]
PER_COUNT = 257  # 65535 / 255
EXIF_START = b"Exif\x00\x00"  # in JPEG; other formats have what follows it


def is_deep(path: Path | BinaryIO) -> bool:
    """Return whether an image file has 16 bits per channel; only its header is read."""
    if not isinstance(path, Path):
        path.seek(0)
    with Image.open(path) as image:
        if image.format == "TIFF":
            tags: Mapping = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
            unsigned = set(tags.get(SAMPLE_FORMAT, (UNSIGNED,))) == {UNSIGNED}
            return max(tags.get(BITS, (1,))) == 16 and unsigned
        return image.format == "PNG" and any("16" in str(tile[3]) for tile in image.tile)


def decode_deep(path: Path | BinaryIO) -> NDArray[np.uint16]:
    """Return the pixels (H, W, 3) of a file for which `is_deep` holds, as they are stored.

    Greyscale has three equal channels; transparency is left out. The orientation of EXIF is not
    applied. Raises HDEDError for a file that cannot be decoded.
    """
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # an error says enough
    content = path.read_bytes() if isinstance(path, Path) else _whole(path)
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        name = path if isinstance(path, Path) else "the file"
        raise HDEDError(f"{name}: its 16 bits per channel cannot be decoded")
    pixels = found if found.ndim == 3 else np.repeat(found[..., None], 3, -1)
    return np.ascontiguousarray(pixels[..., 2::-1], np.uint16)


def encode_deep(rgb: NDArray[np.uint16], exif: bytes, icc_profile: bytes | None) -> bytes:
    """Return a PNG file of rgb (H, W, 3) uint16, with EXIF and a colour profile, if there are."""
    import cv2

    kinds, contents = [], []
    for kind, content in (
        (cv2.IMAGE_METADATA_EXIF, exif.removeprefix(EXIF_START)),
        (cv2.IMAGE_METADATA_ICCP, icc_profile),
    ):
        if content:
            kinds.append(kind)
            contents.append(np.frombuffer(content, np.uint8))
    done, encoded = cv2.imencodeWithMetadata(".png", rgb[..., ::-1], kinds, contents)
    assert done
    return encoded.tobytes()


def eight_bits(rgb: Pixels) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) of 8 or 16 bits per channel as uint8, rounded."""
    if rgb.dtype == np.uint8:
        return rgb.astype(np.uint8, copy=False)
    found = np.empty(rgb.shape, np.uint8)
    for rows in row_blocks(len(rgb)):
        found[rows] = np.rint(rgb[rows] / np.float32(PER_COUNT))
    return found


def _whole(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read()
