"""How many of the best to run again, and on how many seeds: recorded searches, replayed.

python research/confirmation/replay.py [--searches 2000] [--to FILE]

The best value of each of the recorded configs counts as what the config is worth; a search draws
some of them and sees each on one seed, which adds noise. The product's own code then confirms: who
runs, who is dropped, who wins, what is claimed. The baseline is a config of a given quantile of
those that the search has drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.report import called, heading, parser, publish, table
from search.findings.evidence import Candidate, Evidence, Run, next_round
from spaces.sections import ConfirmSpec
from trainers.image_counts import hmean

CURVES = Path(__file__).parent.parent / "early-stopping" / "camvid.jsonl"
NOISE = (0.012, 0.019, 0.024)  # sd between seeds, as measured (benchmarks/trust.md)
SIZES = (16, 30)  # configs of a search
BASELINES = (0.5, 0.8, 0.95, 1.0)  # quantiles of the search's own configs; 1: its best
SETTINGS = [(top, seeds) for top in (1, 2, 3, 4) for seeds in (1, 2, 3, 4)]


@dataclass(frozen=True)
class Outcome:
    """One search, confirmed.

    Attributes:
        regret: worth of the best config of the search less that of the winner.
        unconfirmed: the same, of the config whose one-seed value is highest.
        excess: reported value less the winner's worth.
        first_excess: one-seed value of the unconfirmed winner less its worth.
        runs: as a share of the search's.
        claimed: "by the search".
        wrong: claimed, and the winner is worth no more than the baseline.
        missed: the interval of the gain does not hold the truth.
    """

    regret: float
    unconfirmed: float
    excess: float
    first_excess: float
    worth: float
    runs: float
    claimed: bool
    wrong: bool
    missed: bool


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--searches", type=int, default=2000, help="of each setting and noise")
    args = made.parse_args()
    rows = []
    for size in SIZES:
        for top, seeds in SETTINGS:
            groups = [
                list(replay(size, top, seeds, noise, quantile, args.searches))
                for noise in NOISE
                for quantile in BASELINES
            ]
            found = [outcome for group in groups for outcome in group]
            worst = max(fmean(o.wrong for o in group) for group in groups)
            rows.append(
                (
                    str(size),
                    str(top),
                    str(seeds),
                    f"{fmean(o.runs for o in found):.2f}",
                    f"{fmean(o.unconfirmed for o in found):.4f}",
                    f"{fmean(o.regret for o in found):.4f}",
                    f"{fmean(o.first_excess for o in found):+.4f}",
                    f"{fmean(o.excess for o in found):+.4f}",
                    f"{fmean(o.worth for o in found):+.4f}",
                    f"{fmean(o.claimed for o in found):.1%}",
                    f"{worst:.1%}",
                    f"{1 - fmean(o.missed for o in found):.1%}",
                )
            )
    columns = (
        "configs",
        "top",
        "seeds",
        "runs, of the search's",
        "regret without",
        "regret",
        "one seed too high by",
        "mean too high by",
        "cross-fitted too high by",
        "claims made",
        "wrong claims, worst",
        "intervals that hold the truth",
    )
    publish(
        heading("Confirmation, replayed", called("replay.py"), program="research/confirmation/")
        + f"\n{args.searches} searches each of {len(NOISE)} noises ({', '.join(map(str, NOISE))} "
        f"between seeds) and {len(BASELINES)} baselines (quantiles "
        f"{', '.join(map(str, BASELINES))} of the search's configs); share without limit.\n\n"
        + table(columns, rows)
        + "\n",
        args.to,
    )


def replay(
    size: int, top: int, seeds: int, noise: float, quantile: float, searches: int
) -> Iterator[Outcome]:
    """Searches of `size` configs, each confirmed."""
    worth = np.array(recorded())
    rng = np.random.default_rng([size, round(noise * 1e4), round(quantile * 100)])
    spec = ConfirmSpec(top=top, seeds=seeds, share=10)
    for _ in range(searches):
        true = rng.choice(worth, size, replace=False)
        first = true + rng.normal(0, noise, size)
        fresh = true[:, None] + rng.normal(0, noise, (size, seeds))
        by_worth = np.argsort(true)
        baseline = int(by_worth[min(size - 1, int(quantile * size))])
        yield confirm(spec, true, first, fresh, baseline)


def confirm(
    spec: ConfirmSpec, true: np.ndarray, first: np.ndarray, fresh: np.ndarray, baseline: int
) -> Outcome:
    order = [int(i) for i in np.argsort(-first)]
    chosen = order[: spec.top] + [n for n in [baseline] if n not in order[: spec.top]]
    runs: dict[int, dict[int, Run]] = {number: {} for number in chosen}
    seeds = range(spec.seeds)

    def evidence() -> Evidence:
        known = [Candidate(n, float(first[n]), dict(runs[n])) for n in chosen]
        return Evidence(hmean, known, baseline)  # there are no images

    while due := next_round(evidence(), spec, seeds, 1e9):
        for number, seed in due:
            runs[number][seed] = Run(seed, float(fresh[number, seed]))
    found = evidence()
    winner, gain = found.winner, found.gain
    assert winner is not None
    truth = true[winner.number] - true[baseline]
    claimed = gain is not None and gain.above
    missed = gain is not None and abs(gain.mean - truth) > gain.half
    return Outcome(
        regret=float(true.max() - true[winner.number]),
        unconfirmed=float(true.max() - true[order[0]]),
        excess=winner.mean - float(true[winner.number]),
        worth=found.worth - float(true[winner.number]),
        first_excess=float(first[order[0]] - true[order[0]]),
        runs=sum(map(len, runs.values())) / len(true),
        claimed=claimed,
        wrong=claimed and truth <= 0,
        missed=missed,
    )


@cache
def recorded() -> list[float]:
    """The best value of each recorded config."""
    rows = [json.loads(line) for line in CURVES.read_text().splitlines()]
    return [max(value for value in row["metric"] if value is not None) for row in rows]


if __name__ == "__main__":
    main()
