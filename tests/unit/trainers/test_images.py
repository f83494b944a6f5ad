"""Image files as bytes: depth, range, channels, opacity, and the way up."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from spaces.data import ImagesSpec, TextDetectionDataSpec
from spaces.errors import InputError
from tests.tiffs import write_tiff
from trainers.images import Seen, as_bytes, as_rgb, bytes_of, decode_image, size_of

NOISE = np.random.default_rng(0).integers(0, 65536, (6, 8, 4)).astype(np.uint16)
BYTES = (NOISE >> 8).astype(np.uint8)


def pages(**changes: Any) -> TextDetectionDataSpec:
    """A spec that lays images on white."""
    split = {"images": "a", "labels": "b"}
    return TextDetectionDataSpec.model_validate({"train": split, "val": split, **changes})


def deep_png(path: Path, values: np.ndarray, orientation: int) -> None:
    """Colours of 16 bits, which Pillow does not write, with EXIF, which OpenCV does not."""
    content = cv2.imencode(".png", values[..., ::-1])[1].tobytes()
    exif = Image.Exif()
    exif[0x112] = orientation
    chunk = b"eXIf" + exif.tobytes()[6:]
    head, rest = content[:33], content[33:]
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(head + whole + rest)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_depth_is_turned_as_exif_says(orientation: int, tmp_path: Path) -> None:
    """As Pillow turns 8 bits."""
    exif = Image.Exif()
    exif[0x112] = orientation
    colours, path = BYTES[..., :3], tmp_path / "a.png"
    Image.fromarray(colours).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode_image(str(path), ImagesSpec()), expected)
    deep_png(path, NOISE[..., :3], orientation)
    assert np.array_equal(decode_image(str(path), ImagesSpec()), expected)
    grey = ImagesSpec(channels=1)
    Image.fromarray(NOISE[..., 0]).save(path, exif=exif)
    assert np.array_equal(decode_image(str(path), grey)[..., 0], expected[..., 0])
    for name, values in (("8.tif", BYTES), ("16.tif", NOISE)):
        Image.fromarray(values[..., 0]).save(tmp_path / name, tiffinfo={0x112: orientation})
        found = decode_image(str(tmp_path / name), grey)
        assert np.array_equal(found[..., 0], expected[..., 0])
        assert size_of(str(tmp_path / name)) == found.shape[:2]


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
def test_bands_of_a_tiff_are_channels(channels: int, grey: bool, kind: str, tmp_path: Path) -> None:
    values = BYTES[..., :channels].astype(kind)
    write_tiff(tmp_path / "a.tif", values, grey=grey)
    spec = ImagesSpec(channels=channels, range=(0, 255))
    seen = Seen()
    assert np.array_equal(decode_image(str(tmp_path / "a.tif"), spec, seen), values)
    assert (seen.channels, seen.unread, seen.transparent) == (channels, 0, False)
    assert size_of(str(tmp_path / "a.tif")) == (6, 8)
    assert bytes_of(str(tmp_path / "a.tif")) >= 48 * 12


def test_colours_of_16_bits_are_read_whatever_their_compression(tmp_path: Path) -> None:
    path = str(tmp_path / "a.tif")
    for compression in (1, 5, 8):  # none, LZW, deflate
        cv2.imwrite(path, NOISE[..., 2::-1], [cv2.IMWRITE_TIFF_COMPRESSION, compression])
        assert np.array_equal(decode_image(path, ImagesSpec()), BYTES[..., :3])


def test_planes_of_a_tiff_are_channels_too(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", BYTES, planes=True)
    found = decode_image(str(tmp_path / "a.tif"), ImagesSpec(channels=4))
    assert np.array_equal(found, BYTES)
    write_tiff(tmp_path / "a.tif", NOISE, planes=True)  # of 16 bits OpenCV makes something else
    with pytest.raises(InputError, match=r"write its channels pixel by pixel .* in a \.npy file"):
        decode_image(str(tmp_path / "a.tif"), ImagesSpec(channels=4))


@pytest.mark.parametrize("grey", [False, True])
def test_more_channels_than_a_tiff_is_read_of_are_refused(grey: bool, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.zeros((6, 8, 5), np.uint8), grey=grey)
    with pytest.raises(InputError, match=r"has 5 channels, but of a TIFF at most 4 can be read"):
        decode_image(str(tmp_path / "a.tif"), ImagesSpec(channels=5))


def test_an_array_has_as_many_channels_as_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    values = np.arange(6 * 8 * 5).reshape(6, 8, 5).astype(np.float64) / 239
    np.save(path, values)
    found = decode_image(str(path), ImagesSpec(channels=5, range=(0, 1)))
    assert np.array_equal(found, np.rint(values * 255)) and size_of(str(path)) == (6, 8)
    with pytest.raises(InputError, match=r"has 5 channels, but data.channels is 3"):
        decode_image(str(path), ImagesSpec())
    with pytest.raises(InputError, match=r"8x6 is 48 pixels, but data.max_pixels is 40"):
        decode_image(str(path), ImagesSpec(channels=5, max_pixels=40))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((6, 8, 3), complex), r"must be numbers of the shape .* complex128 \(6, 8, 3\)"),
        (np.zeros(6), r"must be numbers of the shape .* float64 \(6,\)"),
        (np.array([[object()]]), r"cannot be decoded: .*; is the file complete\?"),
    ],
)
def test_an_array_that_is_no_image_is_refused(
    content: np.ndarray, said: str, tmp_path: Path
) -> None:
    """Objects would be unpickled, which runs what a stranger wrote."""
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(InputError, match=said):
        decode_image(str(tmp_path / "a.npy"), ImagesSpec())


@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_a_page_is_laid_on_white_as_pillow_does(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(BYTES[..., -len(kind) :].copy(), kind)
    image.save(tmp_path / "a.png")
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    seen = Seen()
    found = decode_image(str(tmp_path / "a.png"), pages(), seen)
    assert np.array_equal(found, np.asarray(expected)) and seen.transparent
    assert np.array_equal(as_bytes(image, pages()), found)
    dropped = decode_image(str(tmp_path / "a.png"), ImagesSpec())
    assert np.array_equal(dropped, np.asarray(image.convert("RGB")))


def test_colours_become_grey_as_in_pillow(tmp_path: Path) -> None:
    image = Image.fromarray(BYTES[..., :3])
    image.save(tmp_path / "a.png")
    found = decode_image(str(tmp_path / "a.png"), ImagesSpec(channels=1))
    assert np.array_equal(found[..., 0], np.asarray(image.convert("L")))


@pytest.mark.parametrize("kind", ["u2", "i4", "f4"])
def test_a_range_becomes_all_bytes_and_what_lies_outside_is_counted(
    kind: str, tmp_path: Path
) -> None:
    values = np.array([[90, 100, 613, 1120, 1130]], kind)
    Image.fromarray(values).save(tmp_path / "a.tif")
    seen = Seen()
    spec = ImagesSpec(channels=1, range=(100, 1120))
    found = decode_image(str(tmp_path / "a.tif"), spec, seen)
    assert found[..., 0].tolist() == [[0, 0, 128, 255, 255]]
    assert (seen.low, seen.high, seen.outside, seen.values) == (90, 1130, 2, 5)


def test_any_number_of_channels_can_be_looked_at() -> None:
    assert np.array_equal(as_rgb(BYTES), BYTES[..., :3])
    assert np.array_equal(as_rgb(BYTES[..., :1]), np.repeat(BYTES[..., :1], 3, axis=2))
