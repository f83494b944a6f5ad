"""The chosen metric beside its data set: the name that people read, and how much each class counts.

The settings themselves are a section of the trial's config, `metric.name` and so on (config.py,
text_detection.py): so they reach training, checkpoints and exports as every setting does.
"""

from __future__ import annotations

from typing import Any

from spaces.config import MetricConfig, SegmentationMetric
from spaces.data import BACKGROUND, AnyDataSpec, SegmentationDataSpec
from spaces.errors import did_you_mean


def metric_name(metric: MetricConfig, data: AnyDataSpec) -> str:
    """Return a metric's name for tables and graphs: mIoU, F1, mIoU (2 of 8 classes), Hmean.

    Names of classes, which may be any text, are not in it.
    """
    if not isinstance(data, SegmentationDataSpec):
        return {"hmean": "Hmean", "cleval": "CLEval"}[metric.name]
    assert isinstance(metric, SegmentationMetric)
    names = data.class_names
    counting = [n for n, w in zip(names, class_shares(metric, data), strict=True) if w]
    kind = {"iou": "IoU", "dice": "Dice", "boundary_iou": "IoU"}[metric.name]
    if data.binary and counting == data.names:
        name = "F1" if metric.name == "dice" else kind
    elif data.binary:
        name = f"m{kind}" if len(counting) == 2 else f"{kind} ({BACKGROUND})"
    else:
        name = kind if len(counting) == 1 else f"m{kind}"
        if metric.classes is not None:
            name += f" ({len(counting)} of {len(names)} classes)"
    if metric.name == "boundary_iou":
        name = f"boundary {name}"
    return f"weighted {name}" if metric.weights else name


def class_shares(metric: SegmentationMetric, data: SegmentationDataSpec) -> list[float]:
    """Return how much each class counts in the mean over classes.

    Returns:
        A weight of at least 0 for each of `data.class_names`; 0 where it does not count: it was
        not chosen, is one of `data.ignore_classes`, or is the background of a binary task.
    """
    chosen = metric.classes
    if chosen is None:
        chosen = [name for name in data.names if name not in data.ignore_classes]
    return [metric.weights.get(name, 1.0) if name in chosen else 0.0 for name in data.class_names]


def classes_of_a_mean(tree: dict[str, Any]) -> list[Any] | None:
    """Return both classes where the file of a binary task, not yet checked, asks for a mean."""
    metric, data = tree.get("metric"), tree.get("data")
    named = metric if isinstance(metric, dict) else {"name": metric}
    classes = data.get("classes") if isinstance(data, dict) else None
    if not isinstance(classes, list) or len(classes) != 1 or named.get("classes") is not None:
        return None
    is_mean = str(named.get("name")).strip().lower() in ("miou", "mdice")
    return [BACKGROUND, *classes] if is_mean else None


def check_metric(metric: MetricConfig, data: AnyDataSpec) -> None:
    """Check the classes that a metric names against those of the data set.

    Raises:
        ValueError: `metric.classes.1: ...`, the place in the file before the colon.
    """
    if not isinstance(data, SegmentationDataSpec):
        return
    assert isinstance(metric, SegmentationMetric)
    known = data.class_names
    chosen = known if metric.classes is None else metric.classes
    for index, name in enumerate(metric.classes or ()):
        place = f"metric.classes.{index}"
        if name not in known:
            raise ValueError(f"{place}: no class is called {name}{_hint(name, known)}")
        if name in data.ignore_classes:
            raise ValueError(f"{place}: {name} is one of data.ignore_classes; leave it out in one")
        if name in chosen[:index]:
            raise ValueError(f"{place}: {name} stands twice; keep one")
    for name in metric.weights:
        if name not in known:
            raise ValueError(f"metric.weights: no class is called {name}{_hint(name, known)}")
        if name not in chosen or name in data.ignore_classes:
            raise ValueError(f"metric.weights: {name} does not count; remove its weight")
    if not any(class_shares(metric, data)):
        raise ValueError("metric.weights: every class that counts has weight 0; raise one")


def _hint(name: str, known: list[str]) -> str:
    few = f"; known: {', '.join(known)}" if len(known) <= 20 else ""
    return did_you_mean(name, known) or few
