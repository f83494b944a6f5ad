"""Where a task's images and labels are: the `data:` section of a study file.

Each task has a spec of its own; all of them have `train`, `val`, `test`, `max_pixels`, `names`
and `class_names`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from spaces.errors import did_you_mean
from spaces.settings import Section

MaskValue = Annotated[int, Field(ge=0, le=65535)]

BACKGROUND = "background"  # the class of a binary task that its file does not name


class Share(Section):
    """What every split may say: a share of `train` instead of a source of its own (val only)."""

    fraction: float | None = Field(None, gt=0, lt=1)
    """val only: this share of the train images, drawn by `seed`."""
    group: str | None = None
    """A regular expression on the stem, or with a `/` in it on the path; images with equal first
    capture stay on one side."""
    seed: int = 0

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.group is not None and self.fraction is None:
            raise ValueError("group: goes with fraction only")
        _check_pattern(self.group)
        return self


class FoldsSpec(Section):
    """Cross-validation: each image of `train` is validated on once, by a model that has not seen it
    (Stone 1974)."""

    count: int = Field(ge=2, le=20)
    """Folds: a trial trains this many models, one after another."""
    group: str | None = None
    """A regular expression as of `val`; images with equal first capture stay in one fold."""
    seed: int = 0

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        _check_pattern(self.group)
        return self


def _check_pattern(group: str | None) -> None:
    if group is None:
        return
    try:
        groups = re.compile(group).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"group: not a regular expression: {error}") from None
    if groups < 1:
        raise ValueError("group: needs one capture, as in '^([^_]+)_'")


class SegmentationSplitSpec(Share):
    """One split: two folders whose files pair by name, or a list file, or a share of `train`."""

    images: str | None = None
    masks: str | None = None
    image_suffix: str = ""
    """What an image's name has behind what it shares with its mask's: `_leftImg8bit`."""
    mask_suffix: str = ""
    """What a mask's name has there: `_L` pairs `a.png` with `a_L.png`. With an ending, as `_L.png`,
    only files of that ending are masks."""
    recursive: bool = False
    """Also the files of the folders in `images` and `masks`, which pair by their folders too."""
    list: str | None = None
    """A text file of `image mask` lines (tab or spaces), relative to the file's own folder; beside
    `images` and `masks` it has the names of those that are used, a line each."""

    @model_validator(mode="after")
    def _one_source(self) -> SegmentationSplitSpec:
        folders = self.images is not None or self.masks is not None
        if (folders or self.list is not None) == (self.fraction is not None):
            raise ValueError("give images and masks, or list, or (val only) fraction")
        if folders and (self.images is None or self.masks is None):
            missing = "images" if self.images is None else "masks"
            raise ValueError(f"{missing} is missing; images and masks go together")
        for key in ("image_suffix", "mask_suffix", "recursive"):
            if getattr(self, key) and not folders:
                raise ValueError(f"{key}: goes with images and masks only")
        return self


class ImagesSpec(Section):
    """How image files are read, of any task."""

    on_white: ClassVar[bool] = False
    """Whether transparent places become white; else the colours behind them are read."""

    max_pixels: int = Field(100_000_000, ge=1)
    """Larger images are refused before they are decoded (decompression bombs)."""
    range: tuple[float, float] | None = None
    """The values of black and white in the files; else what their bit depth says."""
    channels: int = Field(3, ge=1, le=64)
    """Of the network's input: 1 is grey, 3 RGB; any other number must be that of the files."""

    @property
    def reading(self) -> list[Any]:
        """What a data set's fingerprint has of `range` and `channels`: nothing of usual ones."""
        if self.range is None and self.channels == 3:
            return []
        return [{"range": self.range, "channels": self.channels}]

    @field_validator("range", mode="before")
    @classmethod
    def _check_two(cls, given: Any) -> Any:
        if given is not None and (not isinstance(given, list | tuple) or len(given) != 2):
            raise ValueError(f"must be [black, white], but got {given!r}")
        return given

    @field_validator("range")
    @classmethod
    def _check_range(cls, given: tuple[float, float] | None) -> tuple[float, float] | None:
        if given is not None and not given[0] < given[1]:
            raise ValueError(f"must be [black, white], black below white, but got {[*given]}")
        return given


class SegmentationDataSpec(ImagesSpec):
    """Images and masks, and what the mask values mean."""

    train: SegmentationSplitSpec
    val: SegmentationSplitSpec | None = None
    test: SegmentationSplitSpec | None = None
    folds: FoldsSpec | None = None
    """Divide `train` into folds, in place of `val`."""
    classes: Annotated[list[str], Field(min_length=1, max_length=255)] | str
    """Class names in index order (one name = binary), or a .json or .txt file that has them."""
    ignore_index: MaskValue | None = None
    """Mask value that counts neither in the loss nor in the score."""
    values: list[MaskValue] | None = None
    """The mask value of each class, where that is not its index; with one class every other value
    is background."""
    ignore_values: list[MaskValue] = Field(default_factory=list)
    """Mask values that count neither in the loss nor in the score, beside `ignore_index`."""
    ignore_classes: list[str] = Field(default_factory=list)
    """Classes whose pixels count neither in the loss nor in the score; they keep their index."""
    palette: list[tuple[int, int, int]] | None = None
    """RGB colour of each class, for colour masks."""
    palette_ignore: list[tuple[int, int, int]] = Field(default_factory=list)
    """RGB colours of ignored pixels."""

    @property
    def names(self) -> list[str]:
        """`classes` as a list; a class file has been read by then (`StudySpec.load`)."""
        assert isinstance(self.classes, list)
        return self.classes

    @property
    def class_names(self) -> list[str]:
        """Names of what `per_class` lists: a binary task's background has a score too."""
        return [BACKGROUND, *self.names] if self.binary else self.names

    @property
    def binary(self) -> bool:
        return len(self.names) == 1

    @field_validator("train", "test")
    @classmethod
    def _no_fraction(cls, split: SegmentationSplitSpec | None) -> SegmentationSplitSpec | None:
        return _own_source(split)

    @model_validator(mode="after")
    def _check(self) -> SegmentationDataSpec:
        _check_val(self)
        if isinstance(self.classes, list):
            twice = [name for i, name in enumerate(self.classes) if name in self.classes[:i]]
            if twice:
                raise ValueError(f"classes: {twice[0]} stands twice")
            if self.palette is not None and len(self.palette) != len(self.classes):
                raise ValueError(
                    f"palette: has {len(self.palette)} colours, but there are "
                    f"{len(self.classes)} classes"
                )
            self._check_values(self.classes)
            self._check_ignored()
        colours = self.palette or []
        for key, listed in (("palette", colours), ("palette_ignore", self.palette_ignore)):
            for i, colour in enumerate(listed):
                if not all(0 <= channel <= 255 for channel in colour):
                    raise ValueError(f"{key}: a colour is R, G, B in 0..255, but got {colour}")
                if colour in listed[:i] or (listed is not colours and colour in colours):
                    raise ValueError(f"{key}: the colour {colour} stands twice")
        return self

    def _check_values(self, classes: list[str]) -> None:
        if self.values is not None and self.palette is not None:
            raise ValueError("values: goes with masks of values, palette with masks of colours")
        if self.values is not None and len(self.values) != len(classes):
            raise ValueError(
                f"values: has {len(self.values)} values, but there are {len(classes)} classes"
            )
        values = list(range(len(classes))) if self.values is None else self.values
        for index, value in enumerate(values):
            if value in values[:index]:
                raise ValueError(f"values: {value} stands twice")
        for index, value in enumerate(self.ignore_values):
            if value in values:
                name = classes[values.index(value)]
                raise ValueError(f"ignore_values: {value} is the value of class {name}")
            if value in self.ignore_values[:index]:
                raise ValueError(f"ignore_values: {value} stands twice; keep one")
        if self.ignore_index in values:
            name = classes[values.index(self.ignore_index)]
            what = "index" if self.values is None else "value"
            raise ValueError(f"ignore_index: {self.ignore_index} is the {what} of class {name}")

    def _check_ignored(self) -> None:
        for index, name in enumerate(self.ignore_classes):
            if name not in self.names:
                hint = did_you_mean(name, self.names)
                raise ValueError(f"ignore_classes: no class is called {name}{hint}")
            if name in self.ignore_classes[:index]:
                raise ValueError(f"ignore_classes: {name} stands twice; keep one")
        if len(self.ignore_classes) == len(self.names):
            raise ValueError("ignore_classes: no class is left; remove one from the list")


class TextDetectionSplitSpec(Share):
    """One split of document images: a folder of images with their text boxes, or a share."""

    images: str | None = None
    labels: str | None = None
    """A folder of ICDAR files (`<stem>` or `gt_<stem>`, .txt or .csv), or one JSON."""
    set: str | None = None
    """Only the images whose `set` is this in the JSON, as in COCO-Text's."""

    @model_validator(mode="after")
    def _one_source(self) -> TextDetectionSplitSpec:
        folders = self.images is not None or self.labels is not None
        if self.set is not None and not folders:
            raise ValueError("set: goes with images and labels only")
        if folders == (self.fraction is not None):
            raise ValueError("give images and labels, or (val only) fraction")
        if folders and (self.images is None or self.labels is None):
            missing = "images" if self.images is None else "labels"
            raise ValueError(f"{missing} is missing; images and labels go together")
        return self


class TextDetectionDataSpec(ImagesSpec):
    """Document images and their text boxes."""

    names: ClassVar[list[str]] = ["text"]
    class_names: ClassVar[list[str]] = []  # nothing is scored class by class
    on_white: ClassVar[bool] = True  # as a page is printed

    train: TextDetectionSplitSpec
    val: TextDetectionSplitSpec | None = None
    test: TextDetectionSplitSpec | None = None
    folds: FoldsSpec | None = None
    """Divide `train` into folds, in place of `val`."""
    points: int | None = Field(4, ge=2)
    """Corners of a box in ICDAR files; 2 are left, top, right, bottom of a rectangle; null finds
    them line by line (curved text)."""

    @field_validator("train", "test")
    @classmethod
    def _no_fraction(cls, split: TextDetectionSplitSpec | None) -> TextDetectionSplitSpec | None:
        return _own_source(split)

    @model_validator(mode="after")
    def _check(self) -> TextDetectionDataSpec:
        _check_val(self)
        return self


AnyDataSpec = SegmentationDataSpec | TextDetectionDataSpec


def fold_count(data: AnyDataSpec) -> int:
    """Models that a trial trains: one for each fold, else 1."""
    return 1 if data.folds is None else data.folds.count


S = TypeVar("S", bound=Share)


def _own_source(split: S | None) -> S | None:
    if split is not None and split.fraction is not None:
        raise ValueError("fraction: is for val only")
    return split


def _check_val(data: AnyDataSpec) -> None:
    if data.folds is None and data.val is None:
        raise ValueError("val: is missing; give a split, {fraction: 0.2}, or data.folds")
    if data.folds is not None and data.val is not None:
        raise ValueError(
            "folds: every image of train is validated on in its fold, so there is no val; remove "
            "one of the two (held-out images may be data.test)"
        )
