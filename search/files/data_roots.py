"""The folders of `--data-root`, to look at: what lies in them, and small pictures of the images.

Data are anybody's: names, links and files are taken for hostile.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from spaces.errors import InputError
from spaces.paths import inside, no_link
from trainers.pairs import SUFFIXES

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked before decoding

MOST_ENTRIES = 5000  # of a folder that are looked at, and of all folders in it together
MOST_BELOW = 1000  # of a folder in it
MOST_BYTES = 32 * 2**20  # of an image that is made small
MOST_PIXELS = 40_000_000  # of it, which take 360 MB at most
SIDE = 256  # pixels of a small picture
FEW = 64  # values of what is taken for a mask
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
DEEP = ("I", "F")  # how Pillow calls values that are no bytes; I;16 too


@dataclass(frozen=True)
class Count:
    """How many images lie in a folder, and whether there may be more."""

    images: int
    cut: bool


@dataclass(frozen=True)
class Folder:
    """What lies in a folder.

    Attributes:
        trail: the folders on the way to it, from its root on, and itself.
        folders: in it, by name; None where they were not counted.
        images: the names of those that lie directly in it.
        cut: there are more entries than are looked at.
    """

    path: Path
    trail: list[Path]
    folders: dict[str, Count | None]
    images: list[str]
    cut: bool


class DataRoots:
    """What may be looked at: all that lies below some folders, and is not hidden."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = [root.resolve() for root in roots]

    def find(self, given: str) -> tuple[Path, Path, Path]:
        """Return (root, path as it was given, path without links) of a name that a browser sends.

        Raises:
            InputError: in the same words whether it is there or not: it lies outside, leads out
                by `..` or a link, is hidden, or is nothing.
        """
        for root in sorted(self.roots, key=lambda one: -len(one.parts)):  # one may lie in another
            if given != str(root) and not given.startswith(f"{str(root).rstrip('/')}/"):
                continue
            try:
                below = given.removeprefix(str(root)).removeprefix("/")
                path = inside(root, below) if below else root
                real = path.resolve(strict=True)
            except (InputError, OSError, RuntimeError, ValueError):
                break
            names = (*below.split("/"), *real.relative_to(root).parts)
            if below and not all(map(_is_shown, names)):
                break
            return root, path, real
        raise self._nothing(given)

    def look(self, given: str) -> Folder:
        """Return what lies in a folder; raises InputError as `find`, also where it is a file."""
        root, path, real = self.find(given)
        try:
            entries = list(islice(_entries(root, real), MOST_ENTRIES + 1))
        except OSError:
            raise self._nothing(given) from None
        cut = len(entries) > MOST_ENTRIES
        del entries[MOST_ENTRIES:]
        left, folders = MOST_ENTRIES, dict[str, Count | None]()
        for name in sorted(name for name, is_folder in entries if is_folder):
            folders[name] = None
            if left > 0:
                folders[name], looked = _count(root, (real / name).resolve(), min(left, MOST_BELOW))
                left -= looked
        images = sorted(name for name, is_folder in entries if not is_folder and _is_image(name))
        trail = [path, *path.parents][: len(path.relative_to(root).parts) + 1][::-1]
        return Folder(path, trail, folders, images, cut)

    def picture_of(self, given: str) -> tuple[Path, os.stat_result]:
        """Return an image's path without links, and what the system says of it; as `find`."""
        _, _, real = self.find(given)
        if not _is_image(real.name) or not real.is_file():
            raise self._nothing(given)
        return real, real.stat()

    def _nothing(self, given: str) -> InputError:
        roots = ", ".join(map(str, self.roots))
        return InputError(f"There is nothing to look at: {given[:200]!r}; look below {roots}")


def small_picture(path: Path) -> bytes:
    """Return an image as a JPEG of at most SIDE pixels.

    What has one channel goes from black to white, few values of it in equal steps: those of a mask
    are often small, with 255 beside them, and would all look black.

    Raises:
        InputError: it is too large, or none.
    """
    said = "cannot be shown"
    try:
        with open(path, "rb", opener=no_link) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                said = f"has more than {MOST_BYTES >> 20} MiB"
                raise ValueError
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    said = f"has more than {MOST_PIXELS:,} pixels"
                    raise ValueError
                small = _small(image)
    except Exception:  # whatever a broken file makes of its decoder
        raise InputError(f"{path.name} {said}") from None
    content = io.BytesIO()
    small.save(content, "JPEG", quality=85)
    return content.getvalue()


def _small(image: Image.Image) -> Image.Image:
    """RGB or grey, the way up that its EXIF says."""
    exif = image.getexif()
    image.draft("RGB", (2 * SIDE, 2 * SIDE))  # of a JPEG only as much is decoded as is needed
    # what is grey may be a mask, which has nothing between its values
    grey = image.mode in ("1", "L") or image.mode.startswith(DEEP)
    resample = Image.Resampling.NEAREST if grey else Image.Resampling.BOX
    flat = image.convert("RGBA") if image.mode in ("P", "PA", "LA") else image
    flat.thumbnail((SIDE, SIDE), resample)
    if grey:
        flat = Image.fromarray(_stretched(np.asarray(flat, np.float64)))
    elif flat.has_transparency_data:
        flat = flat.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", flat.size, "white"), flat)
    if not grey:
        flat = flat.convert("RGB")
    flat.getexif().update(exif)
    return ImageOps.exif_transpose(flat)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values as bytes, the lowest black and the highest white; few in equal steps."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    known, ranks = np.unique(values, return_inverse=True)
    if len(known) <= FEW:
        values = ranks.reshape(values.shape)
    low, high = values.min(), values.max()
    scaled: np.ndarray = (values - low) * (255 / (high - low) if high > low else 0)
    return scaled.astype(np.uint8)


def _count(root: Path, folder: Path, most: int) -> tuple[Count | None, int]:
    """How many images lie in a folder, and how many entries were looked at."""
    try:
        entries = list(islice(_entries(root, folder), most + 1))
    except OSError:
        return None, 1
    images = sum(not is_folder and _is_image(name) for name, is_folder in entries[:most])
    return Count(images, len(entries) > most), len(entries)


def _entries(root: Path, folder: Path) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a folder) of what may be shown, in no order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_shown(entry.name) and (not entry.is_symlink() or _stays(root, entry.path)):
                yield entry.name, entry.is_dir()


def _stays(root: Path, link: str) -> bool:
    """Whether a link leads to something that may be shown."""
    try:
        parts = Path(link).resolve(strict=True).relative_to(root).parts
    except (OSError, RuntimeError, ValueError):
        return False
    return all(map(_is_shown, parts))


def _is_shown(name: str) -> bool:
    """Whether a name is neither hidden nor one that no address could bear."""
    return name.isprintable() and not name.startswith(".") and "\\" not in name


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)
