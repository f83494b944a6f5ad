"""Layouts of segmentation: Cityscapes, VOC, CamVid, and folders of images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.layouts.classes import ClassFile, class_file, meaning
from search.layouts.folders import (
    SPLITS,
    Layout,
    folders_of,
    not_these,
    paired_folders,
    share,
    share_comment,
    split_of,
    together,
)
from spaces.data import SegmentationSplitSpec
from spaces.errors import InputError
from trainers.images import identified
from trainers.pairs import by_stem, find_pairs

TASK = "segmentation"

CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip
"""{class that counts: its value in labelIds} (Cordts et al. 2016)."""
CITYSCAPES_IDS = 34  # values of labelIds, 0..33

VOC = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
]  # fmt: skip
VOC_BORDER = (224, 224, 192)

CAMVID = [
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car",
    "pedestrian", "bicyclist",
]  # fmt: skip
"""The 11 classes of Badrinarayanan et al. (SegNet); 11 does not count."""


def cityscapes(folder: Path) -> Layout | None:
    """`leftImg8bit/train/CITY/*_leftImg8bit.png` and `gtFine/train/CITY/*_gtFine_labelIds.png`."""
    there = folders_of(folder)
    if not {"leftimg8bit", "gtfine"} <= there.keys():
        return None
    images, masks = there["leftimg8bit"], there["gtfine"]
    kind = "labelIds"
    if not by_stem(masks / "train", "_labelIds", recursive=True):
        kind = "labelTrainIds"
    train, val = (_city(images / name, masks / name, kind) for name in ("train", "val"))
    if not (images / "val").is_dir():
        val = {"fraction": 0.2, "group": "^([^_]+)_"}
    data: dict[str, Any] = {"train": train, "val": val, "classes": list(CITYSCAPES)}
    if kind == "labelIds":
        values = list(CITYSCAPES.values())
        data["values"] = values
        data["ignore_values"] = [v for v in range(CITYSCAPES_IDS) if v not in values]
    comments = {
        "val": "the labels of the test split are not public",
        "values": "of labelIds",
        "ignore_values": "the values of the other classes, which do not count",
    }
    return Layout("Cityscapes", TASK, {**data, "ignore_index": 255}, comments)


def _city(images: Path, masks: Path, kind: str) -> dict[str, Any]:
    return {
        "images": str(images),
        "masks": str(masks),
        "image_suffix": "_leftImg8bit",
        "mask_suffix": f"_gtFine_{kind}",
        "recursive": True,
    }


def voc(folder: Path) -> Layout | None:
    """`JPEGImages`, `SegmentationClass` and the names of each split in `ImageSets/Segmentation`."""
    lists = folder / "ImageSets" / "Segmentation"
    images, masks = folder / "JPEGImages", folder / "SegmentationClass"
    named = {split: lists / f"{split}.txt" for split in SPLITS}
    whole = lists / "trainval.txt"
    if not (named["train"].is_file() or whole.is_file()):
        return None
    if not (images.is_dir() and masks.is_dir()):
        return None
    both = {"images": str(images), "masks": str(masks)}
    train = named["train"] if named["train"].is_file() else whole
    data: dict[str, Any] = {"train": both | {"list": str(train)}}
    pairs = find_pairs(SegmentationSplitSpec(**data["train"]), "train")
    data["val"] = both | {"list": str(named["val"])}
    if not named["val"].is_file() or train == whole:
        data["val"] = share([image for image, _ in pairs])
    file = class_file(folder)
    if file is not None:
        said, comments = meaning(data, file)
        return Layout("VOC", TASK, data | said, comments)
    data["classes"] = VOC
    with identified(str(pairs[0][1])) as mask:
        coloured = mask.image is not None and mask.image.mode in ("RGB", "RGBA")
    if coloured:
        data |= {"palette": [voc_colour(index) for index in range(len(VOC))]}
        return Layout("VOC", TASK, data | {"palette_ignore": [VOC_BORDER]})
    return Layout(
        "VOC", TASK, data | {"ignore_index": 255}, {"ignore_index": "the borders of objects"}
    )


def voc_colour(index: int) -> tuple[int, int, int]:
    """The colour of a class in VOC's masks: its bits, dealt out to R, G and B from the top."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * bit + channel) & 1) << 7 - bit
    return channels[0], channels[1], channels[2]


def camvid(folder: Path) -> Layout | None:
    """`train` and `trainannot` (SegNet's 11 classes), or `701_StillsRaw_full` with `*_L.png`."""
    there = folders_of(folder)
    if {"train", "trainannot"} <= there.keys():
        data = {
            split: split_of(there[split], there[f"{split}annot"])
            for split in SPLITS
            if {split, f"{split}annot"} <= there.keys()
        }
        data.setdefault("val", share(list(by_stem(there["train"]).values())))
        said = {"classes": CAMVID, "ignore_index": len(CAMVID)}
        return Layout("CamVid", TASK, data | said, {"ignore_index": "void"})
    images = next((there[name] for name in there if name.startswith("701_stillsraw")), None)
    masks = next((there[name] for name in there if name.startswith("labeledapproved")), None)
    if images is None or masks is None:
        return None
    return _read("CamVid", folder, {"train": split_of(images, masks)})


def pairs(folder: Path) -> Layout | None:
    """Folders of images and of masks, with or without splits; or one folder that has both."""
    found = paired_folders(folder)
    splits = {split: split_of(*pair) for split, pair in found.items() if _are_masks(pair[1])}
    if "train" not in splits:
        there = folders_of(folder)
        one = {
            split: together(there[name])
            for split, names in SPLITS.items()
            for name in names
            if name in there
        }
        splits = {split: settings for split, settings in one.items() if settings}
    if "train" not in splits and (settings := together(folder)):
        splits = {"train": settings}
    return _read("pairs of images and masks", folder, splits) if "train" in splits else None


def _read(name: str, folder: Path, splits: dict[str, Any]) -> Layout:
    """A layout whose masks are read, to know what they hold."""
    try:
        train = [
            image for image, _ in find_pairs(SegmentationSplitSpec(**splits["train"]), "train")
        ]
        comments = {}
        if "val" not in splits:
            val = share(train)
            splits = {"train": splits["train"], "val": val, **splits}
            comments["val"] = share_comment(val)
        file = _named(folder, splits)
        said, more = meaning(splits, file)
    except InputError as error:
        raise not_these(folder, error, name) from None
    return Layout(name, TASK, splits | said, comments | more)


def _named(folder: Path, splits: dict[str, Any]) -> ClassFile | None:
    """The file of class names in a folder, or beside its masks."""
    return class_file(folder) or class_file(Path(splits["train"]["masks"]).parent)


def _are_masks(folder: Path) -> bool:
    return bool(by_stem(folder) or by_stem(folder, recursive=True))
