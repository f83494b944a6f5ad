"""What is checked of a study file before anything is started."""

from __future__ import annotations

from search.studies.study import Study
from search.work.trackers import check_trackers
from spaces.defaults import FIRST
from spaces.errors import InputError
from spaces.initial_weights import INIT, is_path
from spaces.limits import shown_count
from spaces.spec import StudySpec
from trainers.cost import networks_of
from trainers.data import SegmentationData
from trainers.devices import pick_device
from trainers.initial_weights import digest
from trainers.precision import resolve_precision
from trainers.tasks import Data, check_extras, check_space, load_data, near_twins
from trainers.text_data import TextData

SHOWN = 3  # networks that are named


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
    check_extras(spec.metric)
    data = load_data(spec.data)
    check_space(space, data)
    check_limits(spec, data)
    for path, sha256 in spec.init_sha256.items():
        if digest(path) != sha256:
            raise InputError(
                f"{INIT}: the weights in {path} have changed since study {spec.name} began, so "
                "that its results would not be comparable; give the study another name"
            )
    return data


def preflight_again(study: Study) -> Data:
    """Preflight a study whose trials are to be run again.

    Raises:
        InputError: as of `preflight`, or its data have changed.
    """
    data = preflight(study.spec)
    if data.fingerprint != study.fingerprint:
        raise InputError(
            f"the data of study {study.spec.name} have changed since it began; its trials cannot "
            "be run again"
        )
    return data


def check_limits(spec: StudySpec, data: Data) -> None:
    """Raise InputError where no network of the space is within the limit of parameters."""
    most = spec.limits.parameters
    if most is None:
        return
    name, fewest = networks_of(spec.search_space(), data)[0]
    if fewest > most:
        raise InputError(
            f"limits.parameters: {shown_count(most)} is below every network of the space; the "
            f"smallest is {name} with {shown_count(fewest)}"
        )


def limit_lines(spec: StudySpec, data: Data) -> list[str]:
    """What can be said of a study's limits before it begins, a sentence each."""
    lines, limits = [], spec.limits
    if limits.parameters is not None:
        found = networks_of(spec.search_space(), data)
        within = [f"{name} {shown_count(n)}" for name, n in found if n <= limits.parameters]
        listed = ", ".join(within[-SHOWN:])
        lines.append(
            f"limits.parameters {shown_count(limits.parameters)}: {len(within)} of {len(found)} "
            f"networks of the space are within, the largest of them {listed}; no other one is "
            "trained"
        )
    if limits.memory_mb is not None and pick_device().type == "cpu":
        lines.append(
            "limits.memory_mb: is of GPU memory; this machine's trials train on the CPU, where it "
            "is not measured and ends none"
        )
    return lines


def settled(spec: StudySpec, data: SegmentationData | TextData) -> StudySpec:
    """Return the spec as a study begins with it: with the SHA-256 of what `model.init` names, and
    without near-twins of the default space.

    A study keeps what is left out. Its choices never change, also where a later version would leave
    out others; what the file names is drawn.
    """
    paths = filter(is_path, spec.search_space().values(INIT))
    spec = spec.model_copy(update={"init_sha256": {path: digest(path) for path in paths}})
    if spec.defaults == FIRST:
        return spec
    twins = near_twins(spec.search_space(), data)
    left_out = {name: values for name, values in twins.items() if name not in spec.space}
    return spec.model_copy(update={"left_out": left_out}) if left_out else spec
