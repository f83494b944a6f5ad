"""The settings of a study file that matter first, as fields of a form; and the file with them.

A field that cannot show what the file says is left alone, as is all that no field is for.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaces.errors import InputError
from spaces.spec import TEXT, task_of
from spaces.yamlfile import dump_yaml, mapping, parse_yaml

LR = ("space", "optim.lr")
WORDS, WHOLE, NUMBER, NAMES, CLASSES = "words", "whole", "number", "names", "classes"
CLASS_FILES = (".txt", ".json")


@dataclass(frozen=True)
class Field:
    """A setting in a form.

    Attributes:
        path: the keys that lead to it in the file.
        kind: NAMES has one or several with commas between them; CLASSES also a file of them.
    """

    name: str
    label: str
    path: tuple[str, ...]
    kind: str
    hint: str = ""


@dataclass(frozen=True)
class Shown:
    """A field with what the file says; `value` is None where the field cannot show it."""

    field: Field
    value: str | None


def _fields(targets: str, resolution: str, *own: Field) -> tuple[Field, ...]:
    """Those of a task, whose images have `targets`."""
    return (
        Field("name", "Name", ("name",), WORDS),
        Field("trials", "Trials", ("budget", "trials"), WHOLE),
        Field("hours", "Hours", ("budget", "hours"), NUMBER, "at most; empty: no limit"),
        *(
            Field(f"{split}_{key}", f"{said} {key}", ("data", split, key), WORDS)
            for split, said in (("train", "Train"), ("val", "Validation"))
            for key in ("images", targets)
        ),
        Field(
            "val_fraction",
            "Validation share",
            ("data", "val", "fraction"),
            NUMBER,
            "of the train images, as in 0.2, in place of folders",
        ),
        *own,
        Field("epochs", "Epochs", ("space", "train.epochs"), WHOLE),
        Field("resolution", "Resolution", ("space", "data.resolution"), NAMES, resolution),
        Field("encoders", "Encoders", ("space", "model.encoder"), NAMES),
        Field("lr_low", "Learning rate from", (*LR, "low"), NUMBER),
        Field("lr_high", "Learning rate to", (*LR, "high"), NUMBER),
    )


FIELDS = {
    "segmentation": _fields(
        "masks",
        "height x width, as in 256x256, 384x384",
        Field("classes", "Classes", ("data", "classes"), CLASSES, "in index order; or a file"),
        Field("archs", "Architectures", ("space", "model.arch"), NAMES),
    ),
    "text_detection": _fields(
        "labels",
        "longer side, as in 640, 1024",
        Field("decoders", "Decoders", ("space", "model.decoder"), NAMES),
    ),
}
MOST = max(map(len, FIELDS.values()))


def shown(text: str) -> tuple[str, list[Shown]]:
    """A study file's task, and its settings as fields.

    Raises:
        InputError: it is no YAML of a known task, with the line.
    """
    task, tree = _read(text)
    return task, [Shown(field, _shown(tree, field)) for field in FIELDS[task]]


def written(text: str, given: Mapping[str, str]) -> str:
    """The study file with what a form says; as it was where nothing is new.

    Args:
        given: by the names of fields; one that is not in it, or that could not be shown, stays. ""
            takes the setting out of the file.

    Raises:
        InputError: a value is none of its kind.
    """
    task, before = _read(text)
    tree = copy.deepcopy(before)
    for field in FIELDS[task]:
        was = _shown(before, field)
        new = given.get(field.name, was or "").strip()
        if was is not None and new != was:
            _put(tree, field.path, _value(field, new) if new else None)
    if _at(before, LR) is None and isinstance(lr := _at(tree, LR), dict):
        lr["log"] = True
    return text if tree == before else dump_yaml(tree, default_flow_style=None, width=100)


def _read(text: str) -> tuple[str, dict[str, Any]]:
    document = parse_yaml(text, TEXT)
    tree = mapping(document)
    if "task" not in tree:
        raise InputError(f"task: is missing ({TEXT})")
    return task_of(tree, document), tree


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path; None where nothing does."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _shown(tree: dict[str, Any], field: Field) -> str | None:
    """A setting as its field has it; "" where the file does not name it."""
    value = _at(tree, field.path)
    if value is None:
        above = (_at(tree, field.path[:length]) for length in range(1, len(field.path)))
        free = all(one is None or isinstance(one, dict) for one in above)
        return "" if free else None
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        again = _value(field, text)
    except InputError:
        return None
    same = type(again) is type(value) and again == value
    listed = field.kind == NAMES and [again] == value
    number = field.kind == NUMBER and type(value) is int and again == value
    return text if same or listed or number else None


def _value(field: Field, text: str) -> Any:
    """What a field's text means in the file; raises InputError."""
    if field.kind == WORDS:
        return text
    if field.kind in (NAMES, CLASSES):
        names = [name.strip() for name in text.split(",")]
        if not all(names):
            raise InputError(f"{field.label}: a name is missing beside a comma in {text[:40]!r}")
        if field.kind == CLASSES:
            return text if text.lower().endswith(CLASS_FILES) and len(names) == 1 else names
        sizes = [int(name) if re.fullmatch("[0-9]{1,6}", name) else name for name in names]
        return sizes if len(sizes) > 1 else sizes[0]
    what = "a whole number" if field.kind == WHOLE else "a number"
    pattern = "[0-9]{1,9}" if field.kind == WHOLE else r"[-+]?[0-9.]{1,20}(e[-+]?[0-9]{1,3})?"
    try:
        if re.fullmatch(pattern, text):
            return int(text) if field.kind == WHOLE else float(text)
    except ValueError:
        pass
    raise InputError(f"{field.label}: must be {what}, but got {text[:40]!r}")


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Put a value where a path leads; None takes it away, with what is then empty above it."""
    key, *below = path
    if not below:
        if value is None:
            tree.pop(key, None)
        else:
            tree[key] = value
        return
    if tree.get(key) is None:
        tree[key] = {}
    _put(tree[key], tuple(below), value)
    if not tree[key]:
        del tree[key]
