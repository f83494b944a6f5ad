"""The pictures of one of the best trials, drawn in a process of their own, as a trial runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.files.logs import LOG
from search.work.forkserver import context
from search.work.worker_log import log_to
from spaces.config import TrialConfig
from spaces.paths import clear
from trainers.report import EpochReport
from trainers.tasks import Data, evaluate

DRAW_SECONDS = 600.0  # drawing that has not ended after so long is given up
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Drawing:
    """What the pictures of a trial are made from.

    Attributes:
        model: folder of its best weights.
        classes: names of the classes that `per_class` lists; none of a text detector.
        ended: its reason code, where it ended before its last epoch.
    """

    title: str
    metric: str
    config: TrialConfig
    model: Path
    history: Sequence[EpochReport]
    classes: Sequence[str]
    per_class: Sequence[float | None] | None
    ended: str | None


def draw(drawing: Drawing, data: Data, to: Path, give_up: Callable[[], bool]) -> str | None:
    """Write curves.png, per-class.png and overlays of the best and worst images into `to`.

    Args:
        give_up: asked all the time; true ends the drawing at once.

    Returns:
        What went wrong, or None.
    """
    clear(to)
    # ours: a link in it would be written through. Without parents: of a study that was deleted
    # meanwhile no folder comes back
    to.mkdir()
    process = context.Process(target=_draw, args=(drawing, data, to), name="pictures")
    process.start()
    until = time.monotonic() + DRAW_SECONDS
    while process.is_alive() and time.monotonic() < until and not give_up():
        process.join(POLL_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None if give_up() else f"took longer than {DRAW_SECONDS:.0f} s"
    log = to.parent / LOG
    return None if process.exitcode == 0 else f"ended with code {process.exitcode}; see {log}"


def _draw(drawing: Drawing, data: Data, to: Path) -> None:
    from search.findings.plots import plot_curves, plot_per_class

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)  # the next trial trains meanwhile
    log_to(to.parent / LOG)
    plot_curves(
        drawing.history,
        drawing.config,
        drawing.metric,
        drawing.title,
        to / "curves.png",
        drawing.ended,
    )
    if drawing.classes and drawing.per_class:
        title = f"{drawing.title}: IoU of each class"
        plot_per_class(drawing.classes, drawing.per_class, title, to / "per-class.png")
    evaluate(drawing.model, drawing.config, data, "val", to)
