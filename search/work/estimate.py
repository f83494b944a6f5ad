"""What a study will take, said before it begins: time, by steps that are measured; room on disk.

The smallest and the largest config of the space are measured, each as its trial would train it, in
a process of its own: one that the kernel ends for want of memory ends nobody else.
"""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from search.files.sizes import shown_bytes
from search.findings.wording import clock_span
from search.stopping.rules import rule_pauses
from search.work.forkserver import context
from spaces.config import SegmentationConfig, TrialConfig
from spaces.data import fold_count
from spaces.space import Space
from spaces.spec import StudySpec
from spaces.text_detection import TextDetectionConfig
from trainers.cache import arrays_bytes
from trainers.cost import count_parameters
from trainers.data import SegmentationData
from trainers.devices import device_name, pick_device, visible_gpus
from trainers.page_cache import page_shapes
from trainers.segmentation import sizes
from trainers.speed import Speed, measure_speed, operations
from trainers.tasks import Data
from trainers.text_data import TextData
from trainers.text_detection import longest_side

WAITING = 0.9  # of the trials, at most, were paused at once in replayed searches
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Extreme:
    """The smallest or the largest config of a space.

    Attributes:
        speed: None: it could not be measured, because of `problem`.
    """

    config: TrialConfig
    speed: Speed | None
    problem: str = ""

    @property
    def name(self) -> str:
        flat = self.config.flat()
        return (
            f"{flat.get('model.arch', 'DBNet')}/{flat['model.encoder']} at "
            f"{flat['data.resolution']}, batch {self.config.train.batch_size}"
        )


@dataclass(frozen=True)
class Estimate:
    """What a study will take.

    Attributes:
        trials: that are still to begin.
        workers: among whom the time is divided.
        cache: bytes of all decoded images.
    """

    spec: StudySpec
    trials: int
    device: str
    workers: int
    smallest: Extreme
    largest: Extreme
    cache: int

    @property
    def seconds(self) -> tuple[float, float] | None:
        """(least, most) seconds of the search, as if all its trials were the one or the other."""
        speeds = [self.smallest.speed, self.largest.speed]
        found = [self._search(speed) for speed in speeds if speed is not None]
        return (min(found), max(found)) if len(found) == len(speeds) else None

    def lines(self) -> Iterator[str]:
        """What is said of it."""
        yield from (
            f"{which}: {extreme.name}: {self._said(extreme)}"
            for which, extreme in (("smallest", self.smallest), ("largest", self.largest))
        )
        if self.seconds is not None:
            yield self._time(*self.seconds)
        yield self._disk()

    def _said(self, extreme: Extreme) -> str:
        speed = extreme.speed
        if speed is None:
            return extreme.problem
        return (
            f"{speed.step:.3g} s a step on {self.device}, {speed.steps} steps and {speed.images} "
            f"val images an epoch: {speed.epoch:.3g} s"
        )

    def _search(self, speed: Speed) -> float:
        return speed.epoch * self._epochs * self.trials / self.workers

    @property
    def _epochs(self) -> int:
        """Of a trial in full, all folds."""
        return self.spec.search_space().base.train.epochs * fold_count(self.spec.data)

    def _time(self, least: float, most: float) -> str:
        budget, confirm = self.spec.budget, self.spec.confirm
        whose = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        more = "" if confirm is None else f"; confirmation adds at most {confirm.share:.0%}"
        limits = [
            f"{name} {value:g}"
            for name, value in (("hours", budget.hours), ("gpu_hours", budget.gpu_hours))
            if value is not None
        ]
        limits += [] if budget.until is None else ["until"]
        ends = f"; budget.{' and '.join(limits)} may end it before" if limits else ""
        return (
            f"time: {clock_span(least, most)} on {whose}, if all {self.trials} trials of "
            f"{self._epochs} epochs were as small or as large; what early stopping spares is not "
            f"counted{more}{ends}"
        )

    def _disk(self) -> str:
        text = f"disk: {shown_bytes(self.cache)} of decoded images in the cache"
        rooms = [room for one in (self.smallest, self.largest) if (room := _room(one)) is not None]
        if not rooms:
            return text
        waiting = max(1, round(WAITING * self.trials)) if rule_pauses(self.spec.pruner) else 0
        each = [[weights for weights, _ in rooms], [state for _, state in rooms]]
        kept = self.spec.keep_models * fold_count(self.spec.data)
        wait = f", and of each that waits, {waiting} of them at most" if waiting else ""
        weights, state = (_span(sizes) for sizes in each)
        most = max(each[1]) * (self.workers + waiting) + max(each[0]) * kept
        return (
            f"{text}; {state} for the checkpoint of each trial that runs{wait}; {weights} for each "
            f"of {kept} models that are kept; all together at most "
            f"{shown_bytes(self.cache + round(most))}"
        )


def _room(extreme: Extreme) -> tuple[int, int] | None:
    """Bytes of (the weights, a whole checkpoint) of a config."""
    if extreme.speed is None:
        return None
    weights, config = FLOAT * extreme.speed.parameters, extreme.config
    moments = 2 if config.optim.name == "adamw" else 1
    averaged = config.train.ema is not None
    return weights, weights * (2 + moments + averaged)  # the best epoch's among them


def _span(found: Iterable[int]) -> str:
    least, most = shown_bytes(min(values := list(found))), shown_bytes(max(values))
    return least if least == most else f"{least} to {most}"


def estimate(spec: StudySpec, data: Data, trials: int) -> Estimate:
    """Measure what so many trials of a study will take on this machine."""
    space = spec.search_space()
    extremes = _extremes(space, data, spec.limits.parameters)
    small, large = (_measured(config, data) for config in extremes)
    device = device_name(pick_device())
    workers = _workers_here(spec)
    return Estimate(spec, trials, device, workers, small, large, _cache_bytes(space, data))


def _workers_here(spec: StudySpec) -> int:
    """Workers that divide the time on this machine: as many as GPUs, where so many are started.

    Those that share a GPU, or the cores of a machine without one, share its speed.
    """
    gpus = len(visible_gpus())
    count = spec.workers.count if spec.workers.count is not None else gpus
    return max(1, min(count, gpus))


def _measured(config: TrialConfig, data: Data) -> Extreme:
    with ProcessPoolExecutor(1, mp_context=context, initializer=_in_process) as process:
        try:
            speed = process.submit(_measure, config, data).result()
        except BrokenProcessPool:
            problem = "its process died while it was measured; its memory may not suffice"
            return Extreme(config, None, problem)
        except Exception as error:
            return Extreme(config, None, f"could not be measured: {type(error).__name__}: {error}")
    if speed is None:
        return Extreme(
            config, None, "out of memory with one image at a time; such trials end as oom"
        )
    return Extreme(config, speed)


def _in_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who measures


def _measure(config: TrialConfig, data: Data) -> Speed | None:
    with contextlib.redirect_stdout(io.StringIO()):  # what a trial would say into its log
        return measure_speed(config, data)


def _extremes(
    space: Space, data: Data, most_parameters: int | None
) -> tuple[TrialConfig, TrialConfig]:
    """The configs of the network with the fewest and the most operations, at the ends of size.

    Args:
        most_parameters: networks with more are not trained.
    """
    base = space.base
    if space.has_archs:
        networks = [
            base.replace({"model.arch": arch, "model.encoder": encoder})
            for arch, encoder in space.model_pairs()
        ]
        by_size = sorted(set(sizes(space)), key=lambda size: size[0] * size[1])
        resolutions = [f"{height}x{width}" for height, width in (by_size[0], by_size[-1])]
    else:
        networks = [
            base.replace({"model.encoder": encoder, "model.decoder": decoder})
            for encoder in space.names("model.encoder")
            for decoder in space.names("model.decoder")
        ]
        found = space.values("data.resolution")
        resolutions = [min(found), max(found)]
    logits = data.classes if isinstance(data, SegmentationData) else 1
    if most_parameters is not None:
        within = [net for net in networks if count_parameters(net, data) <= most_parameters]
        networks = within or networks  # those with the fewest channels may be
    networks.sort(key=lambda config: operations(config, logits))
    batches = space.values("train.batch_size")
    small, large = (
        network.replace({"data.resolution": resolution, "train.batch_size": batch})
        for network, resolution, batch in (
            (networks[0], resolutions[0], min(batches)),
            (networks[-1], resolutions[-1], max(batches)),
        )
    )
    return small, large


def _cache_bytes(space: Space, data: Data) -> int:
    """Bytes of train and val at all sizes that can be drawn, decoded."""
    one = data.folds[0] if data.folds else data
    found: dict[object, int] = {}  # folds share what is kept
    for resolution in space.values("data.resolution"):
        for split in ("train", "val"):
            config = space.base.replace({"data.resolution": resolution})
            if isinstance(config, TextDetectionConfig):
                assert isinstance(one, TextData)
                kept, longest = one.kept(split), longest_side(split, config.data)
                shapes = page_shapes(one, kept, longest)
                pixels = sum(height * width for height, width in shapes)
                found[kept.name, longest] = one.spec.channels * pixels
            else:
                assert isinstance(config, SegmentationConfig) and isinstance(one, SegmentationData)
                kept_images, sized = one.kept(split), config.data.sized
                found[kept_images.name, sized] = arrays_bytes(kept_images, sized, one.spec.channels)
    return sum(found.values())
