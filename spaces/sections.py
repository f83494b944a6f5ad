"""The sections of every task's study file: budget, sampler, pruner, confirm, ensemble, workers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from spaces.settings import Section


class UntilSpec(Section):
    """A study ends by itself where its next trials are expected to gain too little."""

    gain_below: float | None = Field(None, gt=0, lt=1)
    """It ends where they are expected to gain less, in units of the metric; null = less than the
    standard deviation between seeds, as confirmations on the same data have measured it; 0.005
    before there is one."""
    trials: int = Field(10, ge=1, le=1000)
    """How many of the next trials are meant; it looks again after as many, when it is resumed."""


class BudgetSpec(Section):
    """How much a study may spend."""

    trials: int = Field(30, ge=1, le=100_000)
    hours: float | None = Field(None, gt=0)
    """Wall-clock hours from the study's start; then running trials stop with their best so far."""
    gpu_hours: float | None = Field(None, gt=0)
    """Hours that its trials may hold devices, all workers together."""
    trial_hours: float | None = Field(None, gt=0)
    """Hours that one attempt of a trial may take."""
    until: UntilSpec | None = None
    """The study ends by itself, as in {gain_below: 0.005, trials: 10}; null = it does not."""
    max_attempts: int = Field(3, ge=1, le=100)
    """Attempts at a trial whose process or worker dies, before its slot is FAILED."""


class SamplerSpec(Section):
    """Who proposes the next config."""

    name: Literal["tpe", "random", "gp", "cmaes", "qmc"] = "tpe"
    startup_trials: int = Field(10, ge=0)
    """Trials drawn at random, or from the priors of `space`, before the model takes over (tpe, gp,
    cmaes); random: the first ones, drawn from the priors."""


class PrunerSpec(Section):
    """Who stops a trial early, beside patience and health."""

    name: Literal[
        "median",
        "thrifty",
        "quantile",
        "ended_median",
        "stock_median",
        "percentile",
        "hyperband",
        "none",
    ] = "median"
    startup_trials: int | None = Field(None, ge=0)
    """Trials that must be there to compare with before any is stopped; null = 5."""
    stop_from: int | None = Field(None, ge=0)
    """First epoch that may stop a trial; null = a quarter of the run, at least 3 (median), max(2,
    10 %) (thrifty, quantile), or max(3, 20 %)."""
    pause_from: int | None = Field(None, ge=0)
    """median, thrifty, quantile: first epoch that may pause a trial below `pause_below`; null =
    max(2, 10 % of the run), or `stop_from` where that is earlier."""
    quantile: float = Field(0.65, gt=0, lt=1)
    """quantile: a trial stops below this quantile of the others' bests; at 0.65 about a third goes
    on."""
    pause_below: float | None = Field(0.9, gt=0, lt=1)
    """median, thrifty, quantile: a trial below this quantile that does not stop is paused until it
    is among the best or nothing new is left to begin; null = never."""
    margin: float = Field(0.0, ge=0, lt=1)
    """median, thrifty, quantile: how far below its bar a trial may be, in units of the metric."""
    align: Literal["start", "warmup"] = "start"
    """Compare at equal epochs, or (ended trials alone) at equal epochs after the warm-up."""
    percentile: float = Field(25.0, gt=0, lt=100)
    """percentile: only the best this many per cent go on (Optuna's PercentilePruner)."""

    @model_validator(mode="before")
    @classmethod
    def _in_older_words(cls, given: Any) -> Any:
        """`min_epochs` of older files is `stop_from` and `pause_from` now."""
        if not isinstance(given, dict) or "min_epochs" not in given:
            return given
        if {"stop_from", "pause_from"} & given.keys():
            raise ValueError("min_epochs: is stop_from and pause_from now; leave it out")
        first = given["min_epochs"]
        rest = {key: value for key, value in given.items() if key != "min_epochs"}
        return {"stop_from": first, "pause_from": first, **rest}

    @model_validator(mode="after")
    def _check_pause(self) -> PrunerSpec:
        bar = self.pause_below
        if bar is None or bar == type(self).model_fields["pause_below"].default:
            return self  # a study in the store names all fields
        if self.name not in PAUSING or self.align != "start":
            raise ValueError(
                f"pause_below: counts with name: {', '.join(PAUSING)} and align: start only"
            )
        highest = {"median": 0.5, "thrifty": 0.65}.get(self.name, self.quantile)
        if bar < highest:
            raise ValueError(
                f"pause_below: must be at least {highest:g}, the quantile below which a trial "
                f"stops, but got {bar:g}; null pauses none"
            )
        return self


PAUSING = ("median", "thrifty", "quantile")
"""Rules that pause trials too."""


class ConfirmSpec(Section):
    """How the best trials are run again, on fresh seeds, once the search has ended."""

    top: int = Field(2, ge=1, le=20)
    """Trials that run again; the best starting point does beside them, as the baseline."""
    seeds: int = Field(2, ge=1, le=20)
    """Fresh seeds of each, one after another: who has lost is not run on the next."""
    share: float = Field(0.3, gt=0, le=10)
    """Epochs that all of it may take, as a share of trials * train.epochs."""


class EnsembleSpec(Section):
    """What `segtune ensemble` makes of the study, once it has ended."""

    size: int = Field(5, ge=2, le=50)
    """Draws at most; a model that is drawn twice counts twice."""


class WorkersSpec(Section):
    """Who runs the trials: processes of this machine, jobs of Slurm, or actors of Ray."""

    on: Literal["local", "slurm", "ray"] = "local"
    count: int | None = Field(None, ge=0, le=10_000)
    """Workers; null: local, one a GPU, or one; slurm and ray, one. 0: none are started."""
    per_gpu: int = Field(1, ge=1)
    """local: workers that share a GPU."""
    cpus: int = Field(1, ge=1)
    """slurm, ray: cores of each worker."""
    gpus: float = Field(1.0, ge=0)
    """slurm, ray: GPUs of each worker, 0 (trains on the CPU) or 1; with ray also a fraction."""
    memory_gb: int | None = Field(None, ge=1)
    """slurm, ray: memory of each worker in GB."""
    partition: str | None = None
    """slurm: the partition; null = the cluster's default."""
    minutes: int = Field(24 * 60, ge=20)
    """slurm: time limit of a job; before it ends the trial is returned and the job requeued."""
    array: bool = True
    """slurm: one job array; false = one job a worker."""
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)
    """slurm: further options of sbatch by their long names, as in {account: vision, qos: high}."""
    address: str | None = None
    """ray: the cluster's, as in 10.0.0.1:6379; null = this machine's."""
    max_restarts: int = Field(3, ge=-1)
    """ray: how often a worker whose node is lost is started again; -1 = always."""

    @model_validator(mode="after")
    def _check_engine(self) -> WorkersSpec:
        for name, engines in _OF_ENGINE.items():
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if self.on not in engines and getattr(self, name) != default:
                raise ValueError(f"{name}: counts with on: {' or '.join(engines)} only")
        if self.on == "slurm" and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: Slurm gives out whole GPUs, but got {self.gpus:g}")
        if self.gpus > 1:
            raise ValueError(
                f"gpus: a trial trains on one GPU, but got {self.gpus:g}; for more GPUs start more "
                "workers, with count"
            )
        return self


_OF_ENGINE = {
    "per_gpu": ("local",),
    "cpus": ("slurm", "ray"),
    "gpus": ("slurm", "ray"),
    "memory_gb": ("slurm", "ray"),
    "partition": ("slurm",),
    "minutes": ("slurm",),
    "array": ("slurm",),
    "sbatch": ("slurm",),
    "address": ("ray",),
    "max_restarts": ("ray",),
}


def completed(tree: Any) -> Any:
    """A study file with what other sections of it imply."""
    return _with_models_to_keep(_with_pruner_of_its_time(tree))


def _with_models_to_keep(tree: Any) -> Any:
    """A study file with `keep_models` for its ensemble, where it names no number."""
    planned = tree.get("ensemble") if isinstance(tree, dict) else None
    try:
        size = EnsembleSpec.model_validate(planned).size
    except ValidationError:  # there is none; or the section itself will say what is wrong
        return tree
    return {"keep_models": 2 * size, **tree}


def _with_pruner_of_its_time(tree: Any) -> Any:
    """A study file whose `pruner` means what it meant when its defaults were the latest.

    Before 4 the default was `quantile`, and `median` the rule that is `ended_median` now.
    """
    number = tree.get("defaults") if isinstance(tree, dict) else None
    if number not in (1, 2, 3):
        return tree
    given = tree.get("pruner") or {}
    pruner = {"name": given} if isinstance(given, str) else given
    if not isinstance(pruner, dict):
        return tree
    name = pruner.get("name", "quantile")
    return tree | {"pruner": pruner | {"name": "ended_median" if name == "median" else name}}
