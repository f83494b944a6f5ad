"""The test split in words: what a look at it says, and how often it was looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.findings.evidence import CONFIDENCE
from search.findings.markup import literal
from search.studies.looks import Look, Score

WHY = (
    "val chose the trial, its epoch and its decode settings, so it tends to say too much; the test "
    "split chose nothing. The rest of the difference is which images each of them has"
)


def counted(looks: int) -> str:
    """`the test split was looked at 3 times`."""
    return f"the test split was looked at {'once' if looks == 1 else f'{looks} times'}"


def look_lines(look: Look, looks: int, metric: str) -> list[str]:
    """What a look found, a sentence each.

    Args:
        looks: how many there are with it.
    """
    score, baseline = look.score, look.baseline
    settings = f" with {', '.join(score.settings)}" if score.settings else ""
    lines = [f"test: trial {score.trial}{settings} has {said(score, look.images, metric)}"]
    if baseline is not None:
        lines.append(
            f"test: the baseline (trial {baseline.trial}) has {figures(baseline)}; {beside(look)}"
        )
    elif look.missing is not None:
        lines.append(f"test: no baseline beside it: {look.missing}")
    return [*lines, counted(looks)]


def said(score: Score, images: int, metric: str) -> str:
    """`mIoU 0.2438 (0.2210 to 0.2660) over 101 images; on val the same weights have 0.2868`."""
    over = "1 image" if images == 1 else f"{images} images"
    text = f"{metric} {figures(score)} over {over}"
    if score.val is not None:
        text += f"; on val, which chose them, the same weights have {score.val:.4f}"
    return text


def figures(score: Score) -> str:
    """`0.2438 (0.2210 to 0.2660)`."""
    return f"{score.value:.4f}" + (f" ({_interval(score.interval)})" if score.interval else "")


def over_images(interval: tuple[float, float], images: int) -> str:
    """`95% interval over its 101 images: 0.2210 to 0.2660`."""
    return f"{CONFIDENCE:.0%} interval over its {images} images: {_interval(interval)}"


def beside(look: Look) -> str:
    """What may be said of the score beside the baseline's.

    Where the noise of a seed is not known, it is said of these weights, not of their configs.
    """
    found = look.difference
    if found is None:
        return "a single image says nothing of the difference"
    words = f"{found.mean:+.4f} +- {found.half_width:.4f}"
    over = f"{CONFIDENCE:.0%} interval over {'seeds and images' if found.seeds else 'images alone'}"
    if abs(found.mean) <= found.half_width:
        return f"no difference beyond noise: {words}; {over}"
    kind = "better" if found.mean > 0 else "worse"
    if found.seeds:
        return f"trial {look.score.trial} is {kind} there: {words}; {over}"
    return f"these weights are {kind} there: {words}; {over}, another seed may undo it"


def look_table(look: Look, winner: int) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(Columns, rows): val beside test.

    Args:
        winner: the trial that the study answers with now.
    """
    columns = ("trial", "val", "test", f"{CONFIDENCE:.0%} interval over images", "is")
    rows = [_row(look.score, "the winner" if look.score.trial == winner else "")]
    if look.baseline is not None:
        rows.append(_row(look.baseline, "the baseline"))
    return columns, rows


def look_list(looks: Sequence[Look]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(Columns, rows): every look, the first one first."""
    columns = ("when", "by", "command", "trial", "test")
    rows = [
        (
            look.when,
            literal(look.by),
            literal(" ".join([look.command, *look.score.settings])),
            look.score.trial,
            figures(look.score),
        )
        for look in looks
    ]
    return columns, rows


def latest(looks: Sequence[Look]) -> Look | None:
    """The look to show: the last one with the baseline beside it, else the last one."""
    exports = [look for look in looks if look.command == "export"]
    return next(reversed(exports or looks), None)


def _row(score: Score, role: str) -> tuple[Any, ...]:
    return (
        score.trial,
        "-" if score.val is None else f"{score.val:.4f}",
        f"{score.value:.4f}",
        _interval(score.interval) if score.interval else "-",
        role,
    )


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}"
