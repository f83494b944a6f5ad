"""Pictures of a study's best trials, as workers have drawn them: val images, losses, classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from search.database.optuna_private import id_of_trial
from search.files.shown import ShownPicture, shown_pictures
from search.findings.facts import Facts

MOST_TRIALS = 3
PLACES = {"1": "", "2": "second "}  # of the best images of a trial that are shown, and the worst
CHARTS = {
    "curves.png": "loss parts and metric by epoch",
    "per-class.png": "IoU of each class",
}
SIDES = {
    "segmentation": "ground truth, prediction and errors",
    "text_detection": "ground truth and detections",
}
_IMAGE = re.compile(r"(best|worst)-([12])-(.+)\.png", re.DOTALL)


@dataclass(frozen=True)
class Picture:
    """A picture on the page.

    Attributes:
        caption: what it is, below it.
        said: the same and more, for who does not see it.
        size: (width, height) in pixels, where it is known.
    """

    address: str
    caption: str
    said: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Gallery:
    """The pictures of a trial.

    Attributes:
        answer: whether the study answers with it.
        more: how many of its pictures are left out.
    """

    trial: int
    value: float
    answer: bool
    pictures: Sequence[Picture]
    more: int


def galleries(facts: Facts) -> list[Gallery]:
    """Return the pictures of the answer, and of the next best trials that have some."""
    if facts.best is None:
        return []
    shown, study = shown_pictures(facts.study), facts.study
    sides, found = SIDES[study.spec.task], []
    others = (trial for trial in facts.ranking if trial.number != facts.best.number)
    for trial in (facts.best, *others):
        files = shown.get(id_of_trial(trial), [])
        of, at = f"Trial {trial.number}", f"/artifacts/{study.study_id}/{id_of_trial(trial)}"
        pictures = [
            Picture(f"{at}/{file.artifact_id}", caption, f"{of}, {said}", file.size)
            for file, caption, said in _chosen(files, sides)
        ]
        if pictures and trial.value is not None:
            answer, more = trial is facts.best, len(files) - len(pictures)
            found.append(Gallery(trial.number, trial.value, answer, pictures, more))
        if len(found) == MOST_TRIALS:
            break
    return found


def _chosen(files: Sequence[ShownPicture], sides: str) -> list[tuple[ShownPicture, str, str]]:
    """(picture, caption, what it shows) of those that a page has: best images, worst ones, charts.

    Args:
        sides: what the picture of an image has side by side.
    """
    found = []
    for file in files:
        if (of := _IMAGE.fullmatch(file.name)) is not None:
            which = PLACES[of[2]] + of[1]
            said = f"the {which} of its val images, {of[3]}: {sides} side by side"
            found.append((file, f"{which}: {of[3]}", said))
    return [
        *found,
        *((file, CHARTS[file.name], CHARTS[file.name]) for file in files if file.name in CHARTS),
    ]
