"""What a prior gains, and what a misleading one costs: searches on the surrogate of a table.

    python research/early-stopping/priors.py --to research/early-stopping/priors.md

Nothing is trained: surrogate.py answers. A search has the optimiser's ranges of the default space,
and all else as in the best recorded config. A good prior has its center at the best value; a
misleading one at the end of the range that is farther from it. Each is tried on the learning rate
alone and on all ranges at once, with every second of the first ten trials drawn from it, as a study
does, and with all ten.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import optuna

from benchmarks.report import called, heading, parser, publish
from benchmarks.report import table as markdown
from search.studies.samplers import FirstFromPriors, build_sampler
from spaces.sections import SamplerSpec
from spaces.space import Float, Int, Prior, Space
from surrogate import Surrogate, surrogate

FOLDER = "research/early-stopping/"
NEAR = 0.01  # of the best: a search that has come so near has arrived
SPREAD = 3.0  # of a log range: a factor
SHARE = 0.2  # of a range that is not log: of its width


class Row(NamedTuple):
    """Searches that differ in their seed alone."""

    center: str
    names: str
    every: int = 2

    def __str__(self) -> str:
        if self.center == "none":
            return "no prior"
        how = "every second trial" if self.every == 2 else "every trial"
        return f"{self.center}, on {self.names}, {how}"


NONE = Row("none", "")
ROWS = (
    NONE,
    *(
        Row(center, names, every)
        for names in ("optim.lr", "all ranges")
        for every in (2, 1)
        for center in ("good", "misleading")
    ),
)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--tables", nargs="+", default=["camvid", "streets"])
    given.add_argument("--seeds", type=int, default=80, help="searches a row")
    given.add_argument("--first-seed", type=int, default=0)
    given.add_argument("--trials", type=int, default=60, help="of a search, 30 or more")
    given.add_argument("--processes", type=int, default=2)
    args = given.parse_args()
    text = heading("Priors, good and misleading", called("priors.py"), program=FOLDER)
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for table in args.tables:
            found = {}
            for row in ROWS:
                seeds = range(args.first_seed, args.first_seed + args.seeds)
                found[row] = pool.map(partial(search, table, row, args.trials), seeds, chunksize=2)
                print(block(table, found).splitlines()[-1], file=sys.stderr, flush=True)
            text += block(table, found)
    publish(text, args.to)


@cache
def numbers(table: str) -> tuple[Surrogate, Space, dict[str, Any], float]:
    """Return the surrogate, the space of a search, its best flat config, and that one's value."""
    model = surrogate(table)
    top = max(model.table.runs, key=lambda run: model.value(run.params))
    flat = model.space.config(top.params).flat()
    dims = {
        name: dim
        for name, dim in model.space.dims.items()
        if isinstance(dim, Float | Int) and name.startswith("optim.")
    }
    fixed = {name: flat[name] for name in model.space.dims if name not in dims}
    space = Space(dims, {}, model.space.base.replace(fixed))

    def allowed(settings: Mapping[str, Any]) -> bool:
        return all(settings[name] == value for name, value in fixed.items())

    return (model, space, *model.best(allowed))


def priors(table: str, row: Row) -> dict[str, Prior]:
    """Return the priors of a row."""
    _, space, best, _ = numbers(table)
    found = {}
    for name, dim in space.dims.items():
        assert isinstance(dim, Float | Int)
        if row.center == "none" or row.names not in (name, "all ranges"):
            continue
        scale = math.log if dim.log else float
        nearer_low = scale(best[name]) - scale(dim.low) < scale(dim.high) - scale(best[name])
        far = dim.high if nearer_low else dim.low
        center = best[name] if row.center == "good" else far
        spread = SPREAD if dim.log else SHARE * (dim.high - dim.low)
        found[name] = Prior(float(center), spread)
    return found


def search(table: str, row: Row, trials: int, seed: int) -> list[float]:
    """Return the best value, without noise, that a search knows after each of its trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # TPE's groups
    model, space, _, _ = numbers(table)
    study = optuna.create_study(direction="maximize")
    found: list[float] = []
    for slot in range(trials):
        study.sampler = build_sampler(SamplerSpec(), seed, slot, priors(table, row))
        if isinstance(study.sampler, FirstFromPriors):
            study.sampler.every = row.every
        trial = study.ask()
        flat = space.sample(trial).flat()
        study.tell(trial, model.value(flat, seed=seed * trials + slot))
        found.append(max([model.value(flat), *found[-1:]]))
    return found


# ---------------------------------------------------------------- the report


def arrival(values: Iterable[float], target: float) -> int | None:
    """Trials until a search is near the best; None where it never is."""
    return next((n for n, value in enumerate(values, start=1) if value >= target), None)


def arrivals(searches: list[list[float]], target: float) -> np.ndarray:
    """(searches,) trials until each is there; one more than it has where it never is."""
    over = len(searches[0]) + 1
    return np.array([arrival(values, target) or over for values in searches])


def block(table: str, found: Mapping[Row, list[list[float]]]) -> str:
    """One table's part of the report."""
    model, space, _, best = numbers(table)
    trials, seeds = len(found[NONE][0]), len(found[NONE])
    rows = []
    for row, searches in found.items():
        arrived = arrivals(searches, best - NEAR)
        later = arrived - arrivals(found[NONE], best - NEAR)
        error = 1.96 * later.std() / math.sqrt(seeds)
        cells = [
            str(row),
            f"{statistics.median(arrived):g}",
            f"{np.quantile(arrived, 0.9):.0f}",
            f"{arrived.mean():.1f}",
            "" if row == NONE else f"{later.mean():+.1f} ± {error:.1f}",
            f"{(arrived > trials).sum()}",
        ]
        after = [statistics.mean(values[n - 1] for values in searches) for n in (5, 10, 20, 30)]
        rows.append([*cells, *(f"{value:.4f}" for value in after)])
    columns = ["prior", "trials, median", "9 of 10 in", "mean", "later than without", "never"]
    columns += ["best after 5", "10", "20", "30 trials"]
    return f"""
## {table}

Trials until a search is within {NEAR} of the best config of its space ({best:.4f}); one that never
is in {trials} trials counts as {trials + 1}. {seeds} searches a row, of the same seeds,
{len(space.dims)} ranges; the surrogate is of {len(model.table.runs)} recorded runs. The sampler
sees values with the noise of a seed (standard deviation
{model.noise:.3f}); what is counted has none. Beside a difference stands its 95 % interval.

{markdown(columns, rows)}
"""


if __name__ == "__main__":
    main()
