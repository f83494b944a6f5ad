"""When may a search end by itself? Estimates of what its next trials will gain, on replays.

    python research/early-stopping/own_end.py --to research/early-stopping/own_end.md

Searches of 100 trials on the surrogates of the recorded tables (searches.py), by the default rule,
one worker. After each trial from the 15th on each estimate says what the next 10 trials that end
will gain; a search ends where that is below the bar. Trials that are paused then stay so.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from functools import partial
from statistics import fmean

import numpy as np

from benchmarks.report import called, heading, parser, publish, table
from search.stopping.further_gain import further_gain
from searches import TRIALS, Search, search

SAMPLERS = ("random", "tpe")
FIRST, NEXT = 15, 10  # trials before the first look; trials that are meant
BARS = (0.002, 0.005, 0.01)
MUCH = 0.01  # a gain that nobody would have missed
PLACES = (15, 20, 30, 50)  # trials that have ended, for the calibration

Estimate = Callable[[np.ndarray], float]
"""(N,) values of the trials that have ended, in their order -> expected gain of the next."""


def kernel(values: np.ndarray) -> float:
    """The product's: normal kernels on all values (at most 200)."""
    return further_gain([float(value) for value in values], NEXT)


def kernel_half(values: np.ndarray) -> float:
    """The same, of the later half alone, and 20 values at least."""
    last = values[-max(20, len(values) // 2) :]
    gain = further_gain([float(value) for value in last], NEXT)
    return max(0.0, gain - max(0.0, float(values.max() - last.max())))


def exponential(share: float, values: np.ndarray) -> float:
    """An exponential tail above the highest `share` of the values (Pickands 1975, shape 0)."""
    count, ordered = len(values), np.sort(values)
    tail = min(max(5, math.ceil(share * count)), count - 1)
    start = ordered[-tail - 1]
    scale = float((ordered[-tail:] - start).mean())
    if scale <= 0:
        return 0.0
    chance = tail / count * math.exp(-(ordered[-1] - start) / scale)
    draws = np.arange(1, NEXT + 1)
    return float(scale * ((1 - (1 - chance) ** draws) / draws).sum())


def pareto(values: np.ndarray) -> float:
    """A generalised Pareto tail above the median, by probability-weighted moments (Hosking and
    Wallis 1987), its shape drawn to -0.3 as by 10 values."""
    count, ordered = len(values), np.sort(values)
    tail = min(max(5, count // 2), count - 1)
    above = ordered[-tail:] - ordered[-tail - 1]
    if above[-1] <= 0:
        return 0.0
    mean = float(above.mean())
    weighted = float((above * (1 - (np.arange(1, tail + 1) - 0.35) / tail)).mean())
    shape = 2 - mean / (mean - 2 * weighted) if mean > 2 * weighted else 0.2
    shape = float(np.clip((tail * shape - 0.3 * 10) / (tail + 10), -1, 0.2)) or 1e-6
    scale = mean * (1 - shape)
    end = -scale / shape if shape < 0 else above[-1] + 12 * scale
    if above[-1] >= end:
        return 0.0
    x = np.linspace(above[-1], end, 120)
    beyond = np.maximum(1 + shape * x / scale, 1e-12) ** (-1 / shape)
    return float(np.trapezoid(1 - (1 - tail / count * beyond) ** NEXT, x))


def past(values: np.ndarray) -> float:
    """What the last 20 trials have gained, halved; inf where there are no 20 and one before."""
    before = values[: -2 * NEXT]
    return math.inf if not len(before) else float(values.max() - before.max()) / 2


ESTIMATES: dict[str, Estimate] = {
    "normal kernels (the product's)": kernel,
    "normal kernels, later half": kernel_half,
    "exponential tail, best tenth": partial(exponential, 0.1),
    "exponential tail, best fifth": partial(exponential, 0.2),
    "generalised Pareto tail": pareto,
    "the last 20 trials' gain, halved": past,
}


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--tables", nargs="+", default=["camvid", "streets"])
    made.add_argument("--seeds", type=int, default=50)
    made.add_argument("--processes", type=int, default=2)
    args = made.parse_args()
    text = heading(
        "When may a search end by itself?", called("own_end.py"), program="research/early-stopping/"
    )
    with multiprocessing.Pool(args.processes) as pool:
        for of in args.tables:
            for sampler in SAMPLERS:
                found = pool.map(partial(search, of, sampler), range(args.seeds))
                text += f"\n## {of}, {sampler}: {len(found)} searches\n\n{report(found)}\n"
    publish(text, args.to)


def report(found: list[Search]) -> str:
    """The tables of one kind of search."""
    orders = [in_order(one) for one in found]
    rows = []
    for name, estimate in ESTIMATES.items():
        said = [[estimate(v[:n]) for n in range(FIRST, len(v) + 1)] for v in orders]
        calibration = [
            f"{fmean(s[n - FIRST] for s in said):.4f} / {fmean(gain(v, n) for v in orders):.4f}"
            for n in PLACES
        ]
        rows.append((name, *calibration))
    begun = fmean(len(one.ended[FIRST - 1]) for one in found)
    text = f"When {FIRST} trials have ended, {begun:.0f} of {TRIALS} have begun.\n\n"
    text += table(("said / came, after", *map(str, PLACES)), rows) + "\n\n"
    rows = []
    for name, estimate in ESTIMATES.items():
        for bar in BARS:
            ends = [end(v, estimate, bar) for v in orders]
            share = [one.epochs[n - 1] / one.epochs[-1] for one, n in zip(found, ends, strict=True)]
            soon = [gain(v, n) for v, n in zip(orders, ends, strict=True)]
            ever = [float(v.max() - v[:n].max()) for v, n in zip(orders, ends, strict=True)]
            rows.append(
                (
                    name,
                    f"{bar:g}",
                    f"{fmean(ends):.0f}",
                    f"{fmean(share):.2f}",
                    f"{fmean(soon):.4f}",
                    f"{fmean(g > MUCH for g in soon):.0%}",
                    f"{fmean(ever):.4f}",
                    f"{fmean(g > MUCH for g in ever):.0%}",
                )
            )
    return text + table(
        (
            "estimate",
            "bar",
            f"ended, of {TRIALS}",
            "epochs, of all",
            f"next {NEXT} gain",
            f"above {MUCH}",
            "all others gain",
            f"above {MUCH}",
        ),
        rows,
    )


def in_order(one: Search) -> np.ndarray:
    """(T,) final values, by the end of their trials."""
    before = np.zeros(TRIALS, bool)
    values = []
    for ended in one.ended:
        now = np.zeros(TRIALS, bool)
        now[: len(ended)] = ended
        values += [float(value) for value in one.final[now & ~before]]
        before = now
    return np.array(values)


def gain(values: np.ndarray, ended: int) -> float:
    """What the next trials gained."""
    return float(values[: ended + NEXT].max() - values[:ended].max())


def end(values: np.ndarray, estimate: Estimate, bar: float) -> int:
    """How many trials have ended when the search ends."""
    looks = range(FIRST, len(values))
    return next((n for n in looks if estimate(values[:n]) < bar), len(values))


if __name__ == "__main__":
    main()
