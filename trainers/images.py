"""Image files as bytes: of any depth and number of channels, as a data set's `data:` reads them.

Pillow reads what it can. It cuts colours of 16 bits to 8, and knows no colours in floating point;
these go through OpenCV. Arrays of .npy files have as many channels as they like.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from spaces.errors import InputError
from trainers.near_duplicates import picture_hash
from trainers.pairs import NPY, plain_file

Image.MAX_IMAGE_PIXELS = None  # our own limit, data.max_pixels, is checked before decoding

# freed blocks of 16 MB, Pillow's own, would stay with the thread; malloc gives larger ones back
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong, we say

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # not EPS, which would run Ghostscript
BITS, PHOTOMETRIC, PLANES, EXTRA = 258, 262, 284, 338
"""Tags of a TIFF; PHOTOMETRIC: 0 and 1 are grey, 2 is RGB; PLANES: 2 is channel by channel."""

PIXEL_BYTES = 12  # at the peak of decoding and converting, the worst format: docs/decisions/0031
BAND_ROWS = 256  # of an image that are converted at a time

WHITE = {"8 bits": 255, "16 bits": 65535, "32 bits": 65535, "floats": 255}
"""{depth: the value that is taken for white where `data.range` says nothing}; black is 0."""


class Pixels(Protocol):
    """What a `data:` section says of image files; see spaces/data.py."""

    @property
    def max_pixels(self) -> int: ...
    @property
    def range(self) -> tuple[float, float] | None: ...
    @property
    def channels(self) -> int: ...
    @property
    def on_white(self) -> bool: ...


@dataclass
class Seen:
    """What the values of an image file were, before they became bytes.

    Attributes:
        size: (height, width) in pixels, the way up that its EXIF says.
        depth: a key of WHITE.
        low, high: the smallest and the largest value; without opacity, but where it is a channel.
        outside: how many of `values` lie outside of the range, and were cut at its ends.
        transparent: whether opacity that is no channel is anywhere below full.
        channels: of the file; unread: of these, those that are neither read nor opacity.
        picture: its `picture_hash`, where `see_image` has looked.
    """

    size: tuple[int, int] = (0, 0)
    depth: str = ""
    low: float = math.inf
    high: float = -math.inf
    outside: int = 0
    values: int = 0
    transparent: bool = False
    channels: int = 0
    unread: int = 0
    picture: bytes = b""


def decode_image(path: str, pixels: Pixels, seen: Seen | None = None) -> np.ndarray:
    """Return an image as (H, W, C) uint8, of `data.channels`: 3 are RGB, 1 is grey.

    Colours and grey become each other where 1 or 3 channels are asked for; any other number must be
    that of the file. Opacity is the fourth channel where 4 are asked for.

    Args:
        seen: is told what was there.

    Raises:
        InputError: a broken or oversized file, or one of another number of channels.
    """
    seen = Seen() if seen is None else seen
    if path.lower().endswith(NPY):
        with _damage_named(path):
            found = _by_bands(_array(path, pixels), None, path, pixels, seen)
    else:
        with opened(path, pixels.max_pixels) as file:
            found = _of_file(file, pixels, seen)
    seen.size = found.shape[0], found.shape[1]
    return found


def see_image(path: str, pixels: Pixels) -> Seen:
    """Decode an image file, and tell what its values are; raises InputError as `decode_image`."""
    seen = Seen()
    seen.picture = picture_hash(as_rgb(decode_image(path, pixels, seen)))
    return seen


def as_bytes(image: Image.Image, pixels: Pixels) -> np.ndarray:
    """Return a Pillow image of any mode as `decode_image` returns a file."""
    return _of_file(_described("the image", image.copy()), pixels, Seen())


def pixels_of(path: str) -> int:
    """Pixels of an image file, from its header; raises InputError where it is none."""
    height, width = size_of(path)
    return height * width


def bytes_of(path: str) -> int:
    """Most bytes of memory that decoding an image file takes, from its header.

    Of a TIFF of one strip there are the file, the strip, and the image.
    """
    with identified(path) as file:
        return file.height * file.width * max(PIXEL_BYTES, 3 * file.channels * file.item)


def size_of(path: str) -> tuple[int, int]:
    """(height, width) that an image file is stored with, from its header, else InputError."""
    with identified(path) as file:
        return file.height, file.width


def as_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 -> (H, W, 3), to be looked at: grey thrice, or the first three channels."""
    if image.shape[2] < 3:
        return np.repeat(image[..., :1], 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


@dataclass
class File:
    """An image file whose header has been read.

    Attributes:
        image: as Pillow has it; None where Pillow cannot read it.
        channels: as it is stored; those of a palette or of CMYK are colours, and count 3.
        alpha: whether the last channel is opacity.
        item: bytes a value.
        pages: of a TIFF, without smaller copies and masks of a page.
        planes: whether a TIFF has its channels one behind another, and not pixel by pixel.
    """

    path: str
    height: int
    width: int
    image: Image.Image | None
    channels: int
    alpha: bool = False
    item: int = 1
    pages: int = 1
    planes: bool = False


@contextmanager
def identified(path: str) -> Iterator[File]:
    """An image file whose header alone has been read, with every failure named."""
    plain_file(path)
    try:
        stream = open(path, "rb")  # noqa: SIM115  # Pillow would map a turned TIFF wrongly
    except OSError as error:
        raise _undecodable(path, error) from None
    with stream:
        yield from _headed(path, stream)


def _headed(path: str, stream: BinaryIO) -> Iterator[File]:
    if path.lower().endswith(NPY):
        with _damage_named(path):
            array = _mapped(path)
            height, width, channels = array.shape
        yield File(path, height, width, None, channels, item=array.itemsize)
        return
    try:
        image = Image.open(stream, formats=FORMATS)
        file = _described(path, image)
    except UnidentifiedImageError:
        file = _unknown(path)
    except Exception as error:
        raise _undecodable(path, error) from None
    yield file


@contextmanager
def opened(path: str, max_pixels: int) -> Iterator[File]:
    """An image file that is to be decoded; what fails in its decoder is an InputError.

    Pillow's decoders raise whatever Python does where a file is broken: struct.error, KeyError, ...
    """
    with identified(path) as file:
        _check_size(path, file.height, file.width, max_pixels)
        with _damage_named(path):
            if file.pages > 1:
                raise InputError(
                    f"{path}: has {file.pages} pages, which are no channels; save each page as a "
                    "file of its own"
                )
            yield file


def banded(image: Image.Image, of: Callable[[Image.Image, int], np.ndarray]) -> np.ndarray:
    """Turn an image into an array, some rows at a time: conversions need several times its memory.

    Args:
        of: (a band of the image, its first row) -> (rows, W, ...) uint8.
    """
    found: np.ndarray | None = None
    for top in range(0, image.height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, image.height)
        band = of(image.crop((0, top, image.width, bottom)), top)
        if found is None:
            found = np.empty((image.height, *band.shape[1:]), np.uint8)
        found[top:bottom] = band
    assert found is not None
    return found


# ---------------------------------------------------------------- headers


def _described(path: str, image: Image.Image) -> File:
    """What Pillow says of a file that it can read."""
    mode = image.mode
    alpha = image.has_transparency_data and mode[0] not in "IF"
    channels = 1 if mode in ("1", "L", "La", "LA", "F") or mode.startswith("I") else 3
    channels += alpha
    item = {"I": 4, "F": 4}.get(mode, 2 if _is_deep(image) else 1)
    pages, planes = 1, False
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        item = max(item, max(tags.get(BITS, (1,))) // 8)
        if tags.get(PHOTOMETRIC) in (0, 1, 2):  # grey, RGB: Pillow may leave channels out
            channels = max(channels, tags.get(277, 1))
        pages, planes = _pages(image), tags.get(PLANES) == 2
    return File(path, image.height, image.width, image, channels, alpha, item, pages, planes)


def _is_deep(image: Image.Image) -> bool:
    """Whether values have 16 bits; before Pillow decodes it."""
    told = [part for tile in getattr(image, "tile", [])[:1] for part in _listed(tile[3])]
    return image.mode.startswith("I;16") or any(isinstance(p, str) and ";16" in p for p in told)


def _listed(args: Any) -> list[Any]:
    return list(args) if isinstance(args, tuple) else [args]


def _pages(image: TiffImageFile) -> int:
    """Pages of a TIFF that are neither smaller copies nor masks of another one."""
    count = 0
    for index in range(image.n_frames):
        image.seek(index)
        count += not image.tag_v2.get(254, 0) & 0b101
    image.seek(0)
    return count


def _unknown(path: str) -> File:
    """A file that Pillow cannot read: a TIFF that OpenCV may, else an InputError."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(8)
            tags = ImageFileDirectory_v2(start + stream.read(8 if start[2:3] == b"+" else 0))
            stream.seek(tags.next)
            tags.load(stream)
            width, height, bits = int(tags[256]), int(tags[257]), max(tags.get(BITS, (1,)))
            channels = int(tags.get(277, 1))
            alpha = tags.get(EXTRA, (0,))[-1] in (1, 2)
            planes = tags.get(PLANES) == 2
    except Exception:
        empty = os.path.getsize(path) == 0
        kind = (
            "an empty file" if empty else "not an image that can be read (png, jpg, tif, bmp, webp)"
        )
        raise InputError(f"{path}: {kind}") from None
    return File(path, height, width, None, channels, alpha, bits // 8, planes=planes)


def _mapped(path: str) -> np.ndarray:
    """The array (H, W, C) of a .npy file, not read yet."""
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size or array.dtype.kind not in "buif":
        raise InputError(
            f"{path}: an image must be numbers of the shape (height, width, channels), but this "
            f"array is {array.dtype} {array.shape}"
        )
    return array


def _check_size(path: str, height: int, width: int, most: int) -> None:
    if width * height > most:
        raise InputError(
            f"{path}: {width}x{height} is {width * height} pixels, but data.max_pixels is "
            f"{most}; a decompression bomb? else raise data.max_pixels"
        )


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _undecodable(path, error) from None


def _undecodable(path: str, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.errno is not None:  # Pillow's own have none
        return InputError(f"{path}: cannot be read: {error.strerror}")
    words = str(error) or type(error).__name__
    return InputError(f"{path}: cannot be decoded: {words}; is the file complete?")


# ---------------------------------------------------------------- values


Values = tuple[np.ndarray, np.ndarray | None]
"""Values (rows, W, C) of any type, and opacity (rows, W) uint8, where there is some."""


def _of_file(file: File, pixels: Pixels, seen: Seen) -> np.ndarray:
    """(H, W, C) uint8 of a decoded file, the way up that its EXIF says."""
    image = file.image
    _check_channels(file.path, file.channels, pixels.channels, tiff=image is None)
    deep = image is None or (file.item > 1 and file.channels > 1)
    lacking = (
        isinstance(image, TiffImageFile)
        and pixels.channels not in (1, 3)
        and image.mode in ("L", "RGB")
    )
    seen.channels = file.channels
    if deep or lacking:
        found = _by_bands(_by_opencv(file), file.alpha, file.path, pixels, seen)
        if image is None or isinstance(image, TiffImageFile):
            return found  # OpenCV has turned it
    else:
        assert image is not None
        image.load()
        found = banded(image, lambda band, _: _converted(_planes(band), file.path, pixels, seen))
    assert image is not None
    return _turned(found, image.getexif().get(ExifTags.Base.Orientation, 1))


def _check_channels(path: str, have: int, want: int, *, tiff: bool) -> None:
    if want not in (1, 3) and have != want:
        raise InputError(
            f"{path}: has {_count(have)}, but data.channels is {want}; give each image {want}, or "
            f"write data.channels: {3 if have == 2 else have}"
        )
    if have > 4 and (tiff or want == have):
        raise InputError(
            f"{path}: has {have} channels, but of a TIFF at most 4 can be read; save it as an "
            f"array (height, width, channels) in a {NPY} file"
        )


def _count(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _array(path: str, pixels: Pixels) -> np.ndarray:
    """The array of a .npy file, of a number of channels that can be used."""
    array = _mapped(path)
    height, width, have = array.shape
    _check_size(path, height, width, pixels.max_pixels)
    want = pixels.channels
    if have != want and not (have in (1, 3) and want in (1, 3)):
        raise InputError(
            f"{path}: has {_count(have)}, but data.channels is {want}; give each image {want}, or "
            f"write data.channels: {have}"
        )
    return array


def _planes(band: Image.Image) -> Values:
    """Values and opacity of a part of a Pillow image; 8 bits become grey or RGB."""
    mode = band.mode
    if mode.startswith("I") or mode == "F":
        return np.asarray(band)[..., None], None
    grey = mode in ("1", "L", "La", "LA")
    if not band.has_transparency_data:
        values = np.asarray(band.convert("L" if grey else "RGB"))
        return values[..., None] if grey else values, None
    both = np.asarray(band.convert("LA" if grey else "RGBA"))
    return both[..., :-1], both[..., -1]


def _by_opencv(file: File) -> np.ndarray:
    """(H, W, C) of any type: RGB, or RGB and one more."""
    content = np.fromfile(file.path, np.uint8)
    if file.channels in (3, 4):
        _as_colours(content.data, file.channels)
    wrong = file.planes and file.item > 1  # OpenCV reads such planes as if they were pixels
    found = None if wrong else cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    del content  # as large as the image, which is about to be copied
    if found is None:
        raise InputError(
            f"{file.path}: cannot be decoded; if it is complete, write its channels pixel by pixel "
            f"and not plane by plane, or save it as an array (height, width, channels) in a {NPY} "
            "file"
        )
    if found.ndim == 2:
        found = found[..., None]
    if found.shape[2] >= 3:
        found = found[..., [2, 1, 0, 3][: found.shape[2]]]
    if file.channels == 2:  # OpenCV makes colours of grey with opacity
        found = found[..., [0, -1]]
    if found.shape[2] != file.channels:
        raise InputError(
            f"{file.path}: has {file.channels} channels in a form of which only {found.shape[2]} "
            f"can be read; save it as an array (height, width, channels) in a {NPY} file"
        )
    return found


def _as_colours(content: memoryview, channels: int) -> None:
    """Let a TIFF of grey and more channels, as GDAL writes several bands, say that it is RGB.

    OpenCV reads the first channel of grey alone. Entries of the header are changed in place.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(content[:4]))
    if order is None:
        return
    (start,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, start)
    places = [start + 2 + 12 * entry for entry in range(count)]
    entries = {struct.unpack_from(order + "H", content, place)[0]: place for place in places}
    colours = entries.get(PHOTOMETRIC)
    if colours is None or struct.unpack_from(order + "H", content, colours + 8)[0] not in (0, 1):
        return
    struct.pack_into(order + "HH", content, colours + 8, 2, 0)
    more = entries.get(EXTRA)
    if more is not None and channels == 4:
        struct.pack_into(order + "HHIHH", content, more, EXTRA, 3, 1, 0, 0)  # one, of no meaning
    elif more is not None:
        struct.pack_into(order + "HHI", content, more, EXTRA - 1, 1, 1)  # an entry that is skipped


def _by_bands(
    array: np.ndarray, alpha: bool | None, path: str, pixels: Pixels, seen: Seen
) -> np.ndarray:
    """(H, W, C) of any type -> (H, W, data.channels) uint8, some rows at a time.

    Args:
        alpha: whether the last channel is opacity.
    """
    seen.channels = array.shape[2]
    found = np.empty((*array.shape[:2], pixels.channels), np.uint8)
    for top in range(0, len(array), BAND_ROWS):
        values = np.asarray(array[top : top + BAND_ROWS])
        if alpha:
            opacity = values[..., -1]
            most = np.iinfo(opacity.dtype).max if opacity.dtype.kind == "u" else 1
            part = (opacity.astype(np.float64) / most * 255).round().clip(0, 255).astype(np.uint8)
            both = (values, None) if pixels.channels not in (1, 3) else (values[..., :-1], part)
        else:
            both = values, None
        found[top : top + BAND_ROWS] = _converted(both, path, pixels, seen)
    return found


def _converted(found: Values, path: str, pixels: Pixels, seen: Seen) -> np.ndarray:
    """Some rows as (rows, W, data.channels) uint8."""
    values, opacity = found
    want = pixels.channels
    if opacity is not None and want not in (1, 3):
        values, opacity = np.concatenate([values, opacity[..., None]], axis=-1), None
    if want in (1, 3) and values.shape[2] not in (1, 3):
        values = values[..., :3] if values.shape[2] > 3 else values[..., :1]
    seen.unread = seen.channels - values.shape[2] - (opacity is not None) if want in (1, 3) else 0
    bytes_ = _scaled(values, path, pixels.range, seen)
    if opacity is not None and opacity.min() < 255:
        seen.transparent = True
        if pixels.on_white:
            bytes_ = _on_white(bytes_, opacity)
    if want == 3 and bytes_.shape[2] == 1:
        return np.repeat(bytes_, 3, axis=2)
    if want == 1 and bytes_.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(bytes_)).convert("L"))[..., None]
    return bytes_


def _scaled(
    values: np.ndarray, path: str, given: tuple[float, float] | None, seen: Seen
) -> np.ndarray:
    """Values of any type as bytes: `data.range`, or what the depth says, becomes 0..255."""
    kind, item = values.dtype.kind, values.dtype.itemsize
    depth = "floats" if kind == "f" else f"{8 * item} bits" if item < 4 else "32 bits"
    low, high = given or (0, WHITE[depth])
    least, most = float(values.min()), float(values.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise InputError(f"{path}: has values that are not finite (NaN or infinite); replace them")
    seen.depth = depth
    seen.low, seen.high = min(seen.low, least), max(seen.high, most)
    seen.values += values.size
    if least < low or most > high:
        seen.outside += int(np.count_nonzero((values < low) | (values > high)))
    if given is None and kind != "f":
        if depth == "8 bits" and kind in "bu":
            return values.astype(np.uint8, copy=False)
        by = 8 if high > 255 else 0
        return (values.astype(np.int64).clip(0, int(high)) >> by).astype(np.uint8)
    share = (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.rint(share.clip(0, 1) * 255).astype(np.uint8)


def _on_white(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """(rows, W, 1 or 3) laid on white, as Pillow does it."""
    both = [colours] * (3 // colours.shape[2]) + [opacity[..., None]]
    image = Image.fromarray(np.concatenate(both, axis=2))
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image))[..., : colours.shape[2]]


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An image as EXIF's orientation, 1 to 8, says that it is to be seen."""
    turns = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}.get(orientation, 0)
    found = np.rot90(pixels, turns)
    if orientation in (2, 4, 5, 7):
        found = found[:, ::-1]
    return np.ascontiguousarray(found)
