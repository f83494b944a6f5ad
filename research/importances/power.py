"""How often importances name what matters, and how often they name chance: recorded configs.

python research/importances/power.py [--studies 200] [--ped-anova 0] [--to FILE]

A study is a draw of the recorded configs (research/early-stopping/camvid.jsonl), each with the best
value of its run. It is asked what matters, then asked again with its values dealt out anew, when
whatever is named is chance. PED-ANOVA, on Optuna's own defaults, is held against shuffled values in
the same way; it takes some 4 s a study, and so has studies of its own number.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from benchmarks.report import called, heading, parser, publish, table
from search.findings.importances import CONFIDENCE, SHUFFLES, shares

CURVES = Path(__file__).parent.parent / "early-stopping" / "camvid.jsonl"
SIZES = (12, 16, 30, 60)
LOG_FROM = 20  # largest by smallest value of a setting that is searched on a log scale

Params = Sequence[Mapping[str, Any]]
Named = Callable[[Params, Sequence[float]], list[str]]


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--studies", type=int, default=200, help="of each size")
    made.add_argument("--ped-anova", type=int, default=0, help="the same, for PED-ANOVA")
    args = made.parse_args()
    runs = [json.loads(line) for line in CURVES.read_text().splitlines()]
    runs = [run for run in runs if run["reason"] == "completed"]
    rows = []
    for name, named, studies in (
        ("ranks", by_ranks, args.studies),
        ("PED-ANOVA", PedAnova(runs), args.ped_anova),
    ):
        rows += [(name, *measured(named, runs, size, studies)) for size in SIZES if studies]
    columns = ("by", "trials", "studies", "name something", "of shuffled values", "ms", "named")
    publish(
        heading("Importances against chance", called("power.py"), program="research/importances/")
        + f"\n{len(runs)} recorded configs; {SHUFFLES} shuffles for each band.\n\n"
        + table(columns, rows)
        + "\n",
        args.to,
    )


def measured(named: Named, runs: Sequence[Any], size: int, studies: int) -> tuple[str, ...]:
    rng = np.random.default_rng(size)
    found: Counter[str] = Counter()
    some = chance = 0
    seconds = 0.0
    for _ in range(studies):
        chosen = [runs[i] for i in rng.choice(len(runs), size, replace=False)]
        params, values = [run["params"] for run in chosen], [max(run["metric"]) for run in chosen]
        began = time.process_time()
        names = named(params, values)
        seconds += time.process_time() - began
        found.update(names)
        some += bool(names)
        chance += bool(named(params, rng.permutation(values).tolist()))
    most = ", ".join(f"{name} {count / studies:.0%}" for name, count in found.most_common(3))
    shares = (f"{some / studies:.0%}", f"{chance / studies:.0%}")
    return str(size), str(studies), *shares, f"{1000 * seconds / studies:.0f}", most


def by_ranks(params: Params, values: Sequence[float]) -> list[str]:
    names = sorted({name for one in params for name in one})
    settings = {name: [one.get(name) for one in params] for name in names}
    return [one.setting for one in shares(settings, values) if one.named]


class PedAnova:
    """PED-ANOVA as Optuna has it, with the band of `shares`."""

    def __init__(self, runs: Sequence[Any]) -> None:
        values: dict[str, list[Any]] = {}
        for run in runs:
            for name, value in run["params"].items():
                values.setdefault(name, []).append(value)
        self.distributions = {name: _distribution(found) for name, found in values.items()}

    def __call__(self, params: Params, values: Sequence[float]) -> list[str]:
        study = optuna.create_study()
        for one in params:
            known = {name: self.distributions[name] for name in one}
            study.add_trial(
                optuna.trial.create_trial(value=0.0, params=dict(one), distributions=known)
            )
        rng = np.random.default_rng(0)
        dealt = [np.array(values), *(rng.permutation(values) for _ in range(SHUFFLES))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [_evaluated(study, one) for one in dealt]
        names = sorted(found[0])
        shares = np.array([[one[name] for one in found] for name in names])
        mean, spread = shares[:, 1:].mean(1, keepdims=True), shares[:, 1:].std(1, keepdims=True)
        scores = (shares - mean) / np.where(spread > 0, spread, np.inf)
        band = np.quantile(scores[:, 1:].max(axis=0), CONFIDENCE, method="higher")
        return [name for name, score in zip(names, scores[:, 0], strict=True) if score > band]


def _evaluated(study: optuna.Study, values: Any) -> dict[str, float]:
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return evaluator.evaluate(study, target=lambda trial: -values[trial.number])


def _distribution(values: Sequence[Any]) -> BaseDistribution:
    if not all(isinstance(value, float) for value in values):
        return CategoricalDistribution(sorted(set(values), key=repr))
    low, high = min(values), max(values)
    return FloatDistribution(low, high, log=low > 0 and high / low > LOG_FROM)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main()
