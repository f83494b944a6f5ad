"""Does a study that begins with another one need fewer trials? Searches on surrogates of tables.

    python research/earlier-studies/measure.py --to research/earlier-studies/report.md

A trial's curve is that of the surrogate of a recorded table (research/early-stopping), with the
noise of a seed that its config draws: the same config has the same curve in all studies of one
repetition. Sampler, rule, pauses, starting points, and what a study takes over, are the product's.

A first study of FIRST trials is run; then, with another seed, its successor twice: as a fresh
study, and with `from_studies`. What counts is how many trials the successor has begun when one of
them has ended whose config is, without noise, among the best two per cent of its space.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "early-stopping"))

import argparse
import copy
import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import TrialState

from record import HERE
from search.findings.beginning import BEST as BEST_TRIALS
from search.findings.beginning import spread_over
from search.stopping.curves import Curve, EndedCurves
from search.stopping.replay import OurRule, Recorded, Run, replay
from search.stopping.rules import QuantileRule, our_rule
from search.studies.earlier import Beginning, known_trial
from search.studies.queue import enqueue_first
from search.studies.samplers import build_sampler
from search.studies.trial_facts import TrialFacts
from spaces.earlier import Outside, moved_params, params_in, uncovered
from spaces.spec import StudySpec
from surrogate import Surrogate, surrogate

FIRST, TRIALS = 30, 40  # trials of the first study, and at most of its successor
BEST = 0.98  # quantile of the successor's space that is the target
NEVER = QuantileRule(startup_trials=10**9)
DRAWN = 1000  # configs that it is estimated from


@dataclass(frozen=True)
class Case:
    """A first study, and the one that comes after it.

    Attributes:
        tables: whose surrogates answer them.
        first, then: entries of `space:` in which they differ from the table's own.
        other_data: configs are as good in both on average, but no config's noise is the same.
    """

    name: str
    tables: tuple[str, str]
    first: Mapping[str, Any] = field(default_factory=dict)
    then: Mapping[str, Any] = field(default_factory=dict)
    other_data: bool = False


CASES = (
    Case(
        "wider: at first U-Net alone, small images, rates up to 1e-3",
        ("camvid", "camvid"),
        first={
            "model.arch": "Unet",
            "data.resolution": "64x96",
            "optim.lr": {"low": 1e-4, "high": 1e-3, "log": True},
        },
    ),
    Case(
        "narrower: then large images alone, rates from 1e-3 on, no focal loss",
        ("camvid", "camvid"),
        then={
            "data.resolution": "96x128",
            "loss.pixel": "ce",
            "optim.lr": {"low": 1e-3, "high": 1e-2, "log": True},
        },
    ),
    Case(
        "other data of one kind: CamVid, its noise drawn anew",
        ("camvid", "camvid"),
        other_data=True,
    ),
    Case(
        "other data of another kind: CamVid, then drawn streets",
        ("camvid", "streets"),
        other_data=True,
    ),
    Case(
        "other data of another kind: drawn streets, then CamVid",
        ("streets", "camvid"),
        other_data=True,
    ),
)


@dataclass(frozen=True)
class Ended:
    """A trial: its settings by dotted name, its curve, and whether it ran in full."""

    settings: dict[str, Any]
    curve: tuple[float, ...]
    whole: bool


@dataclass(frozen=True)
class Needed:
    """Trials begun and epochs trained until the target was reached; trials None: it never was."""

    trials: int | None
    epochs: int


class Search:
    """One study on a surrogate: `Proposals` of replay.

    Attributes:
        world: repetitions differ in the noise of each config.
    """

    def __init__(self, spec: StudySpec, model: Surrogate, world: int, begins: Beginning) -> None:
        self.spec, self.space, self.model, self.world = spec, spec.search_space(), model, world
        self.begins = begins
        self.sampler = build_sampler(spec.sampler, spec.seed, 0)
        self.settings: dict[int, dict[str, Any]] = {}

    @property
    def left(self) -> bool:
        return len(self.settings) < self.spec.budget.trials

    def begin(self, study: optuna.Study) -> tuple[optuna.Trial, Recorded]:
        if not self.settings:
            study.add_trials(self.begins.known)
            enqueue_first(study, self.spec, self.space, self.begins)
        trial = study.ask()
        settings = self.space.base.flat() | self.space.draw(trial)
        self.settings[trial.number] = settings
        drawn = json.dumps(self.model.params(settings), sort_keys=True)
        noise = zlib.crc32(f"{self.world}/{drawn}".encode())
        curve = tuple(self.model.curve(settings, seed=noise))
        return trial, Recorded(trial.params, curve, (1.0,) * len(curve))

    def run(self, wanted: float) -> tuple[list[Ended], Needed]:
        """Run it to its end, or until a trial has ended that is as good as wanted."""
        known = {i: t.intermediate_values for i, t in enumerate(self.begins.known)}
        curves = [curve_of(values) for values in known.values()]
        epochs = self.space.base.train.epochs
        trials = self.spec.budget.trials + len(known)
        judged = self.spec.pruner.name != "none"
        quantile = our_rule(self.spec.pruner, epochs, trials) if judged else NEVER
        rule = Watched(quantile, EndedCurves.of(curves))
        rule.search, rule.wanted = self, wanted
        try:
            epochs = replay(self, rule, epochs).epochs
        except Found:
            return rule.said, Needed(len(self.settings), sum(len(e.curve) for e in rule.said))
        return rule.said, Needed(None, epochs)


class Found(Exception):
    """The target was reached."""


class Watched(OurRule):
    """The product's rule; it keeps what has ended."""

    search: Search
    wanted: float

    def run_ended(self, run: Run) -> None:
        super().run_ended(run)
        settings = self.search.settings[run.number]
        self.said = [*getattr(self, "said", []), Ended(settings, run.curve.values, run.ran_out)]
        if run.ran_out and self.search.model.value(settings) >= self.wanted:
            raise Found


def curve_of(values: Mapping[int, float]) -> Curve:
    return Curve(tuple(values[epoch] for epoch in sorted(values)))


def beginning(case: Case, spec: StudySpec, ended: Sequence[Ended]) -> Beginning:
    """What a study takes over of the first one, as `search/findings/beginning.py` does."""
    space, meaning = spec.search_space(), spec.default_space(1).when
    known, whole = [], [one for one in ended if one.whole]
    for number, one in enumerate(ended):
        if case.other_data:
            break  # of other data, its values say nothing
        facts = TrialFacts(reason="completed", from_study="first", from_trial=number)
        try:
            params = params_in(space, one.settings, meaning)
        except Outside:
            continue
        state = TrialState.COMPLETE if one.whole else TrialState.PRUNED
        trial = optuna.trial.create_trial(
            state=state,
            value=max(one.curve),
            intermediate_values=dict(enumerate(one.curve, 1)),
        )
        known.append(known_trial(trial, facts, one.settings, params, space, spec.limits))
    first = []
    for one in sorted(whole, key=lambda one: -max(one.curve))[: BEST_TRIALS if not known else 1]:
        try:
            params = params_in(space, one.settings, meaning)
        except Outside:
            params = moved_params(space, one.settings, meaning)
        first.append((params, "of the first"))
    names = uncovered(space, [spec_of(case.tables[0], case.first, 0, 1).search_space()])
    spread = spread_over(spec, names) if known else []
    return Beginning(known, first, spread)


def spec_of(
    table: str, changed: Mapping[str, Any], seed: int, trials: int, pruner: str = "median"
) -> StudySpec:
    """The study of a table with entries of its space changed."""
    tree = copy.deepcopy(yaml.safe_load((HERE / f"{table}.yaml").read_text()))
    tree |= {"seed": seed, "budget": {"trials": trials}, "pruner": pruner}
    tree["defaults"] = 4  # so that the pruner is today's
    tree["space"] |= changed
    return StudySpec.of(tree)


def target(case: Case) -> float:
    """The value, without noise, that the best configs of the successor's space have."""
    space = spec_of(case.tables[1], case.then, 0, 1).search_space()
    model, dice = surrogate(case.tables[1]), Dice(random.Random(0))
    base = space.base.flat()
    values = [model.value(base | space.draw(dice)) for _ in range(DRAWN)]
    return float(np.quantile(values, BEST))


class Dice:
    """Answers suggestions at random."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if log:
            return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        return self.rng.uniform(low, high)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return self.rng.randint(low, high)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.rng.choice(choices)


def repetition(case: Case, seed: int, wanted: float, pruner: str) -> tuple[Needed, Needed]:
    """(What a fresh study needed, what one that began with the first needed)."""
    first = spec_of(case.tables[0], case.first, seed, FIRST)
    ended, _ = Search(first, surrogate(case.tables[0]), seed, Beginning()).run(2.0)
    spec = spec_of(case.tables[1], case.then, 1000 + seed, TRIALS, pruner)
    model, seed = surrogate(case.tables[1]), seed + 1000 * case.other_data
    _, fresh = Search(spec, model, seed, Beginning()).run(wanted)
    _, after = Search(spec, model, seed, beginning(case, spec, ended)).run(wanted)
    return fresh, after


def row(case: Case, found: Sequence[tuple[Needed, Needed]]) -> str:
    """A line of the report's table."""
    kinds = list(zip(*found, strict=True))
    middle = [median(one.trials or TRIALS + 1 for one in kind) for kind in kinds]
    never = [sum(one.trials is None for one in kind) for kind in kinds]
    epochs = [median(one.epochs for one in kind) for kind in kinds]
    fewer = sum((a.trials or TRIALS + 1) < (f.trials or TRIALS + 1) for f, a in found)
    more = sum((a.trials or TRIALS + 1) > (f.trials or TRIALS + 1) for f, a in found)
    cells = [
        case.name,
        *(f"{m:g}" + f" ({n} never)" * bool(n) for m, n in zip(middle, never, strict=True)),
        f"{middle[1] / middle[0]:.2f}",
        f"{fewer}, {more}",
        f"{epochs[0]:g}, {epochs[1]:g}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--case", type=int, action="append", help="from 0; by default all")
    parser.add_argument("--pruner", default="none", help="of the successor: none or median")
    parser.add_argument("--to", type=Path, help="a file for the report")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for case in CASES if args.case is None else [CASES[number] for number in args.case]:
        wanted = target(case)
        found = [repetition(case, seed, wanted, args.pruner) for seed in range(args.seeds)]
        rows.append(row(case, found))
        print(rows[-1], flush=True)
    if args.to is not None:
        args.to.write_text(
            f"# Trials until one is among the best {1 - BEST:.0%} of the space\n\n"
            f"Medians of {args.seeds} seeds; one worker, TPE, `pruner: {args.pruner}`, the "
            f"starting points of the field. At most\n{TRIALS} trials, after a first study of "
            f"{FIRST}.\n\n"
            "| the first study, and its successor | fresh | `from_studies` | ratio | needs fewer, "
            "more | epochs: fresh, `from_studies` |\n| --- | --- | --- | --- | --- | --- |\n"
            + "\n".join(rows)
            + "\n"
        )


if __name__ == "__main__":
    main()
