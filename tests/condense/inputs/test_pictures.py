"""Pictures of all formats, with damaged metadata, and with more than 256 levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from condense.inputs.imagebind import ThermalSpec
from condense.inputs.media import keeps_levels, read_item
from condense.inputs.pictures import FORMATS
from condense.inputs.spec import ImageSpec
from condense.system.errors import UserError

SIDE = 16
COLOUR = ImageSpec.of("vision", 3, SIDE, (0.0,) * 3, (1.0,) * 3)
DEPTH = ImageSpec.of("depth", 1, SIDE, (0.5,), (0.5,))
SMOOTH = np.stack([np.add.outer(np.arange(SIDE) * i, np.arange(SIDE) * 4) for i in (2, 4, 8)], -1).astype(np.uint8)
LOSSLESS = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "JPEG": {"quality": 100}}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", format=name, **LOSSLESS.get(name, {}))
    item = read_item(COLOUR, "a.jpg", tmp_path)
    off = (item - torch.from_numpy(SMOOTH).permute(2, 0, 1) / 255).abs()
    assert off.mean() < 0.03  # GIF has a palette
    assert ThermalSpec.of(SIDE).read(tmp_path / "a.jpg").shape == (1, SIDE, SIDE)


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((SIDE, SIDE), level, np.uint8)) for level in (200, 10, 90)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_item(COLOUR, "a.gif", tmp_path).mul(255).round().unique().tolist() == [200]


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01"]
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_exif_data_do_not_refuse_good_pixels(tmp_path: Path, exif: bytes, suffix: str) -> None:
    image = Image.fromarray(SMOOTH)
    image.save(tmp_path / f"plain.{suffix}", dpi=(72, 72))
    image.save(tmp_path / f"a.{suffix}", exif=exif, dpi=(72, 72))
    torch.testing.assert_close(
        read_item(COLOUR, f"a.{suffix}", tmp_path), read_item(COLOUR, f"plain.{suffix}", tmp_path)
    )


def test_millimetres_keep_their_levels(tmp_path: Path) -> None:
    millimetres = np.linspace(500, 4000, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)
    Image.fromarray(millimetres).save(tmp_path / "a.png")
    item = read_item(DEPTH, "a.png", tmp_path)
    expected = torch.from_numpy(millimetres.astype(np.float64)) / 65535
    torch.testing.assert_close(DEPTH.pixels(item)[0].double(), expected, atol=1e-6, rtol=0)
    assert len(item.unique()) == len(np.unique(millimetres))
    assert keeps_levels(DEPTH, tmp_path / "a.png")


def test_only_16_bits_of_grey_are_told_apart(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")
    Image.fromarray(SMOOTH[..., 0]).save(tmp_path / "b.png")
    assert not any(keeps_levels(DEPTH, tmp_path / name) for name in ("a.png", "b.png", "none.png"))


def test_pixels_without_a_known_white_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE), 3.5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff: has pixels of Pillow's mode F, whose white is unknown"):
        read_item(COLOUR, "a.tiff", tmp_path)
