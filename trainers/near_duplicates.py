"""Images of two splits that are nearly the same: copies encoded anew, and frames of one video.

A network that has trained on the one is asked for the other by heart. SHA-256 finds only files that
are the same to the last bit, so pictures are compared by a perceptual hash.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 128  # px that a picture is brought to
KEPT = 32  # lowest frequencies in each direction
BITS = KEPT * KEPT
BYTES = BITS // 8
ROWS = 256  # hashes that are held against all others at a time

COPY = 100  # bits that two copies of a picture differ in at most: docs/decisions/0051
FRAME = 230  # the same of two frames that follow each other in a video

GROUPS = (r"^(.+?)[_-]?\d+$", r"^(.+)[_-]\d+", r"^([^_]+)", r"^([^-]+)", r"^(.+)[_-]")
"""How files of one video are often named, as `data.val.group`: before the number of the frame."""


def picture_hash(image: np.ndarray) -> bytes:
    """Return which of a picture's low frequencies are positive; of a picture of one colour all 0.

    The hash of Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010),
    with 32x32 frequencies in place of 8x8, and the sign in place of the median. Two pictures that
    have nothing in common differ in about half of the bits.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        BYTES bytes.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    step = min(height, width) // (2 * SIDE)
    if step > 1:  # by a whole number first: it costs a sixth
        whole = grey[: height // step * step, : width // step * step]
        size = width // step, height // step
        grey = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.packbits(cv2.dct(small - small.mean())[:KEPT, :KEPT] > 0).tobytes()


def to_text(hashes: Sequence[bytes]) -> str:
    """Hashes as one text for a JSON file."""
    return base64.b64encode(b"".join(hashes)).decode()


def from_text(text: str) -> list[bytes]:
    """The hashes of `to_text`."""
    joined = base64.b64decode(text)
    return [joined[start : start + BYTES] for start in range(0, len(joined), BYTES)]


@dataclass(frozen=True)
class Pair:
    """Two images, by path, and how many bits of their hashes differ."""

    image: str
    other: str
    distance: int


def nearest(
    images: Sequence[str], others: Sequence[str], hashes: Mapping[str, bytes], most: int
) -> list[Pair]:
    """For each image the nearest of the others, where they differ in `most` bits or fewer.

    The nearest pair first. A picture of one colour is near to none.
    """
    queries, pool = ([path for path in of if any(hashes[path])] for of in (images, others))
    if not queries or not pool:
        return []
    known = _signs([hashes[path] for path in pool])
    found = []
    for start in range(0, len(queries), ROWS):
        part = queries[start : start + ROWS]
        alike = _signs([hashes[path] for path in part]) @ known.T  # (rows, M), exact in fp32
        best = alike.argmax(axis=1)
        for path, index, same in zip(part, best, alike.max(axis=1), strict=True):
            distance = (BITS - int(same)) // 2
            if distance <= most:
                found.append(Pair(path, pool[index], distance))
    return sorted(found, key=lambda pair: (pair.distance, pair.image))


def group_of(images: Sequence[str], pairs: Sequence[Pair]) -> str | None:
    """A regular expression for `group` that keeps each pair on one side; None where none fits.

    Args:
        images: paths of all that are divided.
    """
    fitting = dict(_fitting({Path(path).stem for path in images}, pairs))
    return max(fitting, key=lambda pattern: fitting[pattern], default=None)


def _fitting(stems: set[str], pairs: Sequence[Pair]) -> Iterator[tuple[str, int]]:
    """(pattern, groups) of those that match all stems, and divide them, but no pair."""
    for pattern in GROUPS:
        matches = {stem: re.search(pattern, stem) for stem in stems}
        groups = {stem: match[1] for stem, match in matches.items() if match is not None}
        count = len(set(groups.values()))
        if len(groups) == len(stems) and count > 1:
            named = [(Path(pair.image).stem, Path(pair.other).stem) for pair in pairs]
            if all(groups[one] == groups[other] for one, other in named):
                yield pattern, count


def _signs(hashes: Sequence[bytes]) -> NDArray[np.float32]:
    """(N, BITS) of -1 and 1."""
    packed = np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), BYTES)
    signs = np.unpackbits(packed, axis=1).astype(np.float32)
    signs *= 2
    signs -= 1
    return signs
