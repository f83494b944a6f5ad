"""What is checked of a study file before anything is started."""

from __future__ import annotations

from search.work.trackers import check_trackers
from spaces.spec import StudySpec
from trainers.data import SegmentationData
from trainers.precision import pick_device, resolve_precision
from trainers.tasks import check_space, load_data
from trainers.text_data import TextData


def preflight(spec: StudySpec, *, trains_here: bool = True) -> SegmentationData | TextData:
    """Check what a study file needs beyond its text: trackers, data, models, precision.

    Args:
        trains_here: what only the training needs must be here too.

    Raises:
        InputError: the first thing that would make a trial fail.
    """
    space = spec.search_space()
    if trains_here:
        check_trackers(spec.trackers)
        for precision in space.values("train.precision"):
            resolve_precision(precision, pick_device())
    data = load_data(spec.data)
    check_space(space, data)
    return data
