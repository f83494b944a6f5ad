"""Masks on disk as class indices: what a number or a colour means is said by the data set."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import ExifTags, Image

from spaces.data import SegmentationDataSpec
from spaces.errors import InputError
from trainers.images import BAND_ROWS, File, banded, opened
from trainers.losses import IGNORE


def decode_mask(path: str, spec: SegmentationDataSpec) -> np.ndarray:
    """Return a mask as (H, W) uint8 class indices with IGNORE for void.

    Raises:
        InputError: broken file, or a value or colour that is no class; with its first place.
    """
    with opened(path, spec.max_pixels) as file:
        image = _loaded(path, file)
        _check_mask(path, image, colours=spec.palette is not None)
        if spec.palette is not None:
            return banded(image, lambda band, top: _map_colours(band, top, path, spec))
        return banded(image, lambda band, top: _map_indices(band, top, path, spec))


def class_counts(mask: np.ndarray, spec: SegmentationDataSpec) -> list[int]:
    """Pixels of each of `class_names`, of a decoded mask."""
    counts: list[int] = np.bincount(mask.ravel(), minlength=256)[: len(spec.class_names)].tolist()
    return counts


def mask_values(path: str, max_pixels: int, *, colours: bool) -> set[int | tuple[int, int, int]]:
    """Return the values that a mask file holds, or the RGB colours where it is read by colour.

    Raises:
        InputError: no mask that `decode_mask` could read.
    """
    with opened(path, max_pixels) as file:
        image = _loaded(path, file)
        _check_mask(path, image, colours=colours)
        found: set[int | tuple[int, int, int]] = set()
        for top in range(0, image.height, BAND_ROWS):
            band = image.crop((0, top, image.width, min(top + BAND_ROWS, image.height)))
            if not colours:
                found |= set(np.unique(np.asarray(band)).astype(int).tolist())
                continue
            packed = _packed(np.asarray(band.convert("RGB")))
            for colour in np.unique(packed).astype(int).tolist():
                found.add((colour >> 16, colour >> 8 & 255, colour & 255))
        return found


def _loaded(path: str, file: File) -> Image.Image:
    if file.image is None:
        raise InputError(
            f"{path}: a mask must hold one class index a pixel, or with data.palette one RGB "
            f"colour of 8 bits, but has {file.channels} channels of {8 * file.item} bits"
        )
    file.image.load()
    return file.image


def _packed(colours: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) uint32, RGB in one number."""
    packed: np.ndarray = colours.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
    return packed


def _check_mask(path: str, image: Image.Image, *, colours: bool) -> None:
    """Refuse a decoded mask whose pixels are not what was drawn, or no indices of classes."""
    if image.format == "JPEG":
        raise InputError(
            f"{path}: a mask must not be a JPEG, which blurs the borders of classes into other "
            "values; save it as png"
        )
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        raise InputError(
            f"{path}: its EXIF says to turn it, and masks are read as they are stored; save it "
            "turned, without EXIF"
        )
    if colours or image.mode in ("1", "L", "P") or image.mode.startswith("I"):
        return
    hint = "for colour masks give data.palette"
    if image.mode == "F":
        hint = "save whole numbers, of 8 or 16 bits"
    elif image.mode in ("RGB", "RGBA"):
        red, green, blue = image.split()[:3]
        if red.tobytes() == green.tobytes() == blue.tobytes():
            hint = "its three channels are equal, so save one of them"
    elif image.mode == "LA":
        hint = "save it without its alpha channel"
    raise InputError(
        f"{path}: a mask must hold one class index a pixel, but its mode is {image.mode}; {hint}"
    )


def _map_indices(band: Image.Image, top: int, path: str, spec: SegmentationDataSpec) -> np.ndarray:
    table = _index_table(spec.model_dump_json())
    values = np.asarray(band).astype(np.int64)
    mapped = table[values.clip(0, len(table) - 1)]
    wrong = (mapped < 0) | (values < 0) | (values >= len(table))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        value = values[row, column]
        classes = "0 and 1 (or 255)" if spec.binary else f"0..{len(spec.names) - 1}"
        classes = "those of data.values" if spec.values is not None else classes
        ignore = "none" if spec.ignore_index is None else str(spec.ignore_index)
        hint = "; if it marks what does not count, write data.ignore_index: 255"
        raise InputError(
            f"{path}: mask value {value} at row {top + row}, column {column} is no class; classes "
            f"are {classes}, data.ignore_index is {ignore}"
            f"{hint if value == 255 and spec.ignore_index is None else ''}"
        )
    return mapped.astype(np.uint8)


@lru_cache(maxsize=8)
def _index_table(spec_json: str) -> np.ndarray:
    """Mask value -> class index, IGNORE, or -1 for an error; length 65536."""
    spec = SegmentationDataSpec.model_validate_json(spec_json)
    background = 0 if spec.binary and spec.values is not None else -1
    table = np.full(65536, background, dtype=np.int16)
    if spec.values is not None:
        table[spec.values] = [1] if spec.binary else np.arange(len(spec.values))
    else:
        table[: len(spec.class_names)] = np.arange(len(spec.class_names))
        if spec.binary:
            table[255] = 1
    if spec.ignore_index is not None:
        table[spec.ignore_index] = IGNORE
    table[spec.ignore_values] = IGNORE
    ignored = _ignored(spec)
    table[ignored if spec.values is None else [spec.values[index] for index in ignored]] = IGNORE
    return table


def _ignored(spec: SegmentationDataSpec) -> list[int]:
    """Indices of the classes whose pixels do not count."""
    return [spec.names.index(name) for name in spec.ignore_classes]


def _map_colours(band: Image.Image, top: int, path: str, spec: SegmentationDataSpec) -> np.ndarray:
    values = np.asarray(band.convert("RGB"))
    mapped = _colour_table(spec.model_dump_json())[_packed(values)]  # (H, W)
    if (mapped < 0).any():
        row, column = np.argwhere(mapped < 0)[0]
        colour = tuple(int(channel) for channel in values[row, column])
        raise InputError(
            f"{path}: colour {colour} at row {top + row}, column {column} is neither in "
            "data.palette nor in data.palette_ignore"
        )
    return mapped.astype(np.uint8)


@lru_cache(maxsize=2)
def _colour_table(spec_json: str) -> np.ndarray:
    """Packed RGB -> class index, IGNORE, or -1; a binary palette also has its background."""
    spec = SegmentationDataSpec.model_validate_json(spec_json)
    assert spec.palette is not None
    table = np.full(1 << 24, -1, dtype=np.int16)
    if spec.binary:
        table[:] = 0
    for red, green, blue in spec.palette_ignore:
        table[red << 16 | green << 8 | blue] = IGNORE
    ignored = _ignored(spec)
    for index, (red, green, blue) in enumerate(spec.palette):
        kept = IGNORE if index in ignored else index
        table[red << 16 | green << 8 | blue] = 1 if spec.binary else kept
    return table
