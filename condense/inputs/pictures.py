"""Image files as Pillow reads them, upright, with all of their levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from condense.inputs.spec import ImageSpec
from condense.system.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # by content, never by a file's name
FILE_TYPES = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
DEEP = 65535.0  # white in 16 bits


def open_picture(path: Path) -> Image.Image:
    """The first frame, its header read. Raises what Pillow does, UnidentifiedImageError for another format."""
    return Image.open(path, formats=FORMATS)


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey with 16 bits, which Pillow would clip to 255 when it converts."""
    return image.mode.startswith("I;16")


def read_pixels(spec: ImageSpec, path: Path) -> np.ndarray:
    """(height, width, channels) float32 in [0, 1]. Raises UserError for pixels without a known white, and what Pillow does."""
    channels, height, width = spec.shape
    with open_picture(path) as opened:
        opened.load()  # a file that was cut is found here, not by `upright`
        image = upright(opened)
        if is_deep(image):
            grey = Image.fromarray(np.asarray(image, dtype=np.float32))
            pixels = np.asarray(spec.fit(grey), dtype=np.float32).clip(0, DEEP) / np.float32(DEEP)
            return np.repeat(pixels[:, :, None], channels, axis=2)
        if image.mode in ("I", "F"):
            raise UserError(
                f"has pixels of Pillow's mode {image.mode}, whose white is unknown: 8 or 16 bits are needed"
            )
        if "transparency" in image.info:  # a palette's transparency would be a warning
            image = image.convert("RGBA")
        image = image.convert("L" if channels == 1 else "RGB")
    return (np.array(spec.fit(image), dtype=np.float32) / 255).reshape(height, width, channels)


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say, or as it is where these are damaged: they are not the pixels."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # SyntaxError, struct.error, KeyError ...: whatever is in the bytes
        return image


def is_deep_png(path: Path) -> bool:
    """Whether a file is a PNG of 16-bit grey, by its first bytes. False for what cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(26)
    except OSError:
        return False
    return start[:8] == b"\x89PNG\r\n\x1a\n" and start[24:] == b"\x10\0"
