"""Which files belong together: those of two folders by their names, or the lines of a list."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from spaces.data import SegmentationSplitSpec
from spaces.errors import InputError
from spaces.sources import short_start
from spaces.textfile import read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
NPY = ".npy"  # an image where image_suffix says so, a list names it, or channels are many
LIST_BYTES = 50_000_000  # of a file of names, or of `image mask` lines
SUFFIX_KEYS = ("image_suffix", "mask_suffix")
SIGNS = "_-. "  # between the parts of a file's name

Pair = tuple[Path, Path]


def find_pairs(split: SegmentationSplitSpec, name: str) -> list[Pair]:
    """Return (image, mask) of one split, in no order.

    Raises:
        InputError: a folder or list that is none, a file without its counterpart, no image at all.
    """
    if split.images is not None:
        images, masks = _folders(split, name)
        if split.list is None:
            return _paired(images, masks, split, name)
        pairs = _chosen(images, masks, split, name)
    else:
        assert split.list is not None
        pairs = _listed(Path(split.list), name)
    if not pairs:
        raise InputError(f"data.{name}.list: {split.list} names no image")
    return pairs


def by_stem(
    folder: Path,
    suffix: str = "",
    *,
    recursive: bool = False,
    without: Iterable[Path] = (),
) -> dict[str, Path]:
    """Return {key: path} of the images in a folder, sorted; two of one key are an error.

    The key is the name without its ending, in the form of `same_name`; see also `_key`.

    Args:
        suffix: what the names end in, with or without their ending: `_L`, `_L.png`, `.png`.
        recursive: also those of the folders in it; a key then begins with its folders.
        without: files that are something else.
    """
    found: dict[str, Path] = {}
    others = set(without)
    for path in listing(folder, recursive):
        key = _key(path, folder, suffix) if path not in others else None
        if key is None:
            continue
        if key in found:
            raise InputError(f"{path}: the same stem as {found[key].name}; keep one of them")
        found[key] = path
    return found


def same_name(name: str) -> str:
    """A file's name in the form in which names are compared, NFC: macOS writes accents as NFD."""
    return unicodedata.normalize("NFC", name)


def listing(folder: Path, recursive: bool = False) -> list[Path]:
    """Return what lies in a folder and is not hidden, sorted; with `recursive` the files below."""
    try:
        if not recursive:
            return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        return sorted(_below(folder))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None


def kinds(paths: Sequence[Path], suffix: str = "") -> str:
    """Say what some paths are, and which is the first: `2 .gif, 1 folder; the first is a.gif`.

    Args:
        suffix: what the names of images must end in; those that do not are called so.
    """

    def kind(path: Path) -> str:
        if path.is_dir():
            return "folder"
        ending = path.suffix.lower()
        if suffix and ending in SUFFIXES:
            return f"{ending} without {suffix}"
        return ending or "without suffix"

    counts = Counter(map(kind, paths)).most_common(5)
    plural = {"folder": "folders"}
    named = ", ".join(f"{n} {what if n == 1 else plural.get(what, what)}" for what, n in counts)
    return f"{named}; the first is {paths[0].name}"


def nothing_in(folder: Path, *, can_recurse: bool) -> str:
    """Say why a folder has no images, by what is in it: the end of a message."""
    there = listing(folder)
    below = [path for path in there if path.is_dir() and any(map(_is_image, _below(path)))]
    if below and can_recurse:
        return (
            f"no images in {folder} itself, but in folders of it, as in {below[0].name}; to read "
            "those write recursive: true"
        )
    what = f"it has {kinds(there)}" if there else "it is empty"
    return f"no images ({', '.join(SUFFIXES)}) found in {folder}: {what}"


def not_read(splits: Mapping[str, SegmentationSplitSpec], used: Collection[str]) -> list[str]:
    """Say what lies in the folders of images and masks and is not used: a sentence a folder.

    Args:
        used: the files of all splits.
    """
    folders = [
        (name, split, Path(folder))
        for name, split in splits.items()
        for folder in dict.fromkeys((split.images, split.masks))
        if folder is not None and split.list is None  # a list is there to leave others out
    ]
    said = []
    for name, split, folder in folders:
        others = {other for _, _, other in folders if folder in other.parents}
        spare = [
            path
            for path in listing(folder, split.recursive)
            if str(path) not in used
            and not any(path in (other, *other.parents) for other in others)
            and not others.intersection(path.parents)
        ]
        if spare:
            rules = {split.images: split.image_suffix, split.masks: split.mask_suffix}
            what = kinds(spare, rules[str(folder)])
            said.append(f"data.{name}: not read in {folder}: {what}")
    return said


def plain_file(path: str | Path) -> os.stat_result:
    """Return what the system says of a file that can be read without waiting for anybody.

    Raises:
        InputError: a link to nothing, a folder, a pipe or device, or nothing that may be looked at.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            target = os.readlink(path)
            raise InputError(
                f"{path}: a link to {target}, which does not exist; remove it, or put that back"
            ) from None
        raise InputError(f"{path}: does not exist any more") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for its writer
        kind = next((word for of, word in _KINDS if of(found.st_mode)), "something else")
        raise InputError(f"{path}: not a plain file, but {kind}; move it elsewhere")
    return found


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


# ---------------------------------------------------------------- folders


def _folders(split: SegmentationSplitSpec, name: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """{key: path} of the images and of the masks of a split's folders."""
    assert split.images is not None and split.masks is not None
    images, masks = Path(split.images), Path(split.masks)
    for key, folder in (("images", images), ("masks", masks)):
        if not folder.is_dir():
            raise InputError(f"data.{name}.{key}: {folder} is not a folder")
    if (images, split.image_suffix) == (masks, split.mask_suffix):
        raise InputError(
            f"data.{name}: images and masks are the same files, those of {images}; where both lie "
            "in one folder say how their names end: mask_suffix: _mask"
        )
    found_masks = by_stem(masks, split.mask_suffix, recursive=split.recursive)
    taken = set(found_masks.values()) if split.mask_suffix else ()
    found = by_stem(images, split.image_suffix, recursive=split.recursive, without=taken)
    if not found:
        others = [path for path in listing(images, split.recursive) if _is_image(path)]
        if not others:
            raise InputError(f"data.{name}: {nothing_in(images, can_recurse=True)}")
        raise InputError(
            f"data.{name}: no name of the {len(others)} images in {images} ends in image_suffix "
            f"{split.image_suffix}; the first is {others[0].name}"
        )
    return found, found_masks


def _paired(
    images: dict[str, Path], masks: dict[str, Path], split: SegmentationSplitSpec, name: str
) -> list[Pair]:
    """Each image with its mask; one without the other is an error."""
    if missing := [key for key in images if key not in masks]:
        raise InputError(
            f"data.{name}: {len(missing)} of {len(images)} images have no mask; the first is "
            f"{images[missing[0]]}, whose mask must be {_mask_of(missing[0], split)}"
            f"{_advice(split, missing[0], masks)}"
        )
    if spare := sorted(masks.keys() - images.keys()):
        raise InputError(
            f"data.{name}: {len(spare)} of {len(masks)} masks have no image; the first is "
            f"{masks[spare[0]]}"
        )
    return [(path, masks[key]) for key, path in images.items()]


def _mask_of(key: str, split: SegmentationSplitSpec) -> str:
    """The path that a missing mask must have."""
    assert split.masks is not None
    whole = split.mask_suffix.lower().endswith(SUFFIXES)
    return f"{Path(split.masks) / key}{split.mask_suffix}{'' if whole else '.png (or .tif)'}"


def _advice(split: SegmentationSplitSpec, missing: str, known: dict[str, Path]) -> str:
    """How the masks of a split that lacks one may be found: the end of a message.

    Args:
        missing: the key without a mask, and all masks by their keys.
    """
    assert split.images is not None and split.masks is not None
    folder = Path(split.masks)
    masks = by_stem(folder, recursive=split.recursive)
    if not masks:
        return f"; {nothing_in(folder, can_recurse=not split.recursive)}"
    if alike := [path for key, path in known.items() if key.lower() == missing.lower()]:
        return f"; {alike[0].name} differs from it in capitals alone"
    images = by_stem(Path(split.images), recursive=split.recursive)
    rule = suffix_rule(list(images), list(masks)) if split.images != split.masks else None
    if rule is None:
        return "; masks pair by name, see image_suffix and mask_suffix, or write a list"
    keys = [f"{key}: {value}" for key, value in zip(SUFFIX_KEYS, rule, strict=True) if value]
    return f"; all images have one with {' and '.join(keys)}"


def suffix_rule(images: Sequence[str], masks: Sequence[str]) -> tuple[str, str] | None:
    """Return (image_suffix, mask_suffix) by which all images have a mask, or None.

    Args:
        images: names without their endings, and masks likewise.
    """
    first = images[0]
    shared = {mask: _alike(first, mask) for mask in masks}
    most = max(shared.values(), default=0)
    there = set(masks)
    for mask in (mask for mask in masks if most and shared[mask] == most):
        cut = most
        if cut < len(first) and cut < len(mask) and first[cut - 1] not in SIGNS:
            cut = 1 + max(map(first[:cut].rfind, SIGNS))  # `a_leftImg8bit`, `a_labelIds`: at `a_`
        cut = len(first[:cut].rstrip(SIGNS)) if cut < len(first) else cut
        rule = first[cut:], mask[cut:]
        keys = [image.removesuffix(rule[0]) for image in images if image.endswith(rule[0])]
        if cut and len(keys) == len(images) and all(key + rule[1] in there for key in keys):
            return rule
    return None


def _alike(one: str, other: str) -> int:
    """How many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _key(path: Path, folder: Path, suffix: str) -> str | None:
    """What the names of an image and its mask have in common; None for what is no such file."""
    ending = Path(f"x{suffix}").suffix if suffix.lower().endswith((*SUFFIXES, NPY)) else ""
    stem = suffix.removesuffix(ending)
    wanted = (ending.lower(),) if ending else SUFFIXES
    if path.suffix.lower() not in wanted:
        return None
    key = same_name(path.relative_to(folder).with_suffix("").as_posix())
    return key.removesuffix(same_name(stem)) if key.endswith(same_name(stem)) else None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _below(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those in it, links followed; none of hidden ones."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [name for name in folders if not name.startswith(".") and real not in seen]
        if real in seen:  # a link to a folder that it lies in
            continue
        seen.add(real)
        yield from (Path(place, name) for name in files if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise error


# ---------------------------------------------------------------- lists


def _lines(path: Path, name: str) -> list[tuple[int, str]]:
    """Numbered lines of a list, without blank ones and comments."""
    try:
        lines = read_bytes(path, LIST_BYTES).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"data.{name}.list: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"data.{name}.list: {path} is not UTF-8 text") from None
    numbered = enumerate(lines, 1)
    return [(i, line.strip("\r\n")) for i, line in numbered if line.strip() and line[0] != "#"]


def _chosen(
    images: dict[str, Path], masks: dict[str, Path], split: SegmentationSplitSpec, name: str
) -> list[Pair]:
    """The pairs of two folders that a list names, a line each."""
    assert split.list is not None
    path = Path(split.list)
    pairs: dict[str, tuple[int, Pair]] = {}
    for number, line in _lines(path, name):
        given = same_name(line.strip())
        bare = (
            given[: -len(Path(given).suffix)] if given.lower().endswith((*SUFFIXES, NPY)) else given
        )
        key = next(
            (k for k in (given, bare, bare.removesuffix(split.image_suffix)) if k in images), None
        )
        if key is None:
            raise InputError(
                f"{path} line {number}: {short_start(line.strip())} is no image of {split.images}; "
                "beside images and masks a list has one name a line, without its ending"
            )
        if key in pairs:
            raise InputError(
                f"{path} line {number}: {short_start(line.strip())} stands in line "
                f"{pairs[key][0]} already; remove one of them"
            )
        if key not in masks:
            raise InputError(
                f"{path} line {number}: {images[key]} has no mask; it must be "
                f"{_mask_of(key, split)}{_advice(split, key, masks)}"
            )
        pairs[key] = number, (images[key], masks[key])
    return [pair for _, pair in pairs.values()]


def _listed(path: Path, name: str) -> list[Pair]:
    """The pairs of a list of `image mask` lines."""
    pairs: dict[Path, tuple[int, Pair]] = {}
    for number, line in _lines(path, name):
        parts = line.split("\t") if "\t" in line else line.split()
        if len(parts) != 2:
            raise InputError(
                f"{path} line {number}: must be `image mask`, but has {len(parts)} parts "
                "(put a tab between paths that hold spaces)"
            )
        image, mask = (_file(path, part.strip(), number) for part in parts)
        if image in pairs:
            raise InputError(
                f"{path} line {number}: {image.name} stands in line {pairs[image][0]} already; "
                "remove one of them"
            )
        pairs[image] = number, (image, mask)
    return [pair for _, pair in pairs.values()]


def _file(path: Path, part: str, number: int) -> Path:
    """A file that a list names; raises InputError where there is none."""
    try:
        file = (path.parent / part).resolve()
        if file.exists():
            return file
    except (OSError, RuntimeError, ValueError):
        pass  # no name of a file: too long, or with a zero
    if not part.lower().endswith(SUFFIXES):  # of a file that is no list not much is quoted
        raise InputError(
            f"{path} line {number}: {short_start(part)} must be an image file that exists "
            f"({', '.join(SUFFIXES)})"
        )
    raise InputError(f"{path} line {number}: {path.parent / part} does not exist")
