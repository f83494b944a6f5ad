"""What sweeping box_thresh costs beside evaluating each value, on real probability maps.

    python -m benchmarks.decode_sweep FOLDER [--to benchmarks/decode_sweep.md]

FOLDER is an exported text detector. Decoding and scoring only: the maps of the val split are
computed once, before the clock starts. The ways are timed in turns, in an order that rotates, and
must find the same score at every value.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.detector import load_export
from benchmarks.report import heading, parser, publish, spread, table
from benchmarks.turns import rotated
from spaces.space import Free
from trainers.dbnet.decode import candidates
from trainers.dbnet.score import Scores, sweep
from trainers.text_detection import PageOutput

THRESHOLDS = Free(0.1, 0.9, 0.05).values()
UNCLIP_RATIOS = [1.5, 2.0, 2.5, 3.0]
ROUNDS = 7

SEPARATE, SWEEP = f"{len(THRESHOLDS)} evaluations", f"one sweep of {len(THRESHOLDS)} values"
BOTH = f"one sweep of {len(THRESHOLDS)} values x {len(UNCLIP_RATIOS)} unclip ratios"


def main() -> None:
    """Measure, print, and write the report where asked."""
    command = parser(__doc__ or "")
    command.add_argument("folder", type=Path, help="an exported text detector")
    given = command.parse_args()
    task, model, _ = load_export(given.folder)
    outputs = [output for output, _ in task.outputs(model, "val")]
    seconds = measure(outputs, task.config.decode.unclip_ratio, ROUNDS)
    publish(report(seconds, len(outputs)), given.to)


def measure(outputs: list[PageOutput], unclip_ratio: float, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way in each round, over all maps."""
    ways: dict[str, Callable[[], list[Scores]]] = {
        SEPARATE: lambda: [evaluate(outputs, [unclip_ratio], [at])[0] for at in THRESHOLDS],
        SWEEP: lambda: evaluate(outputs, [unclip_ratio], THRESHOLDS),
        BOTH: lambda: evaluate(outputs, UNCLIP_RATIOS, THRESHOLDS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        found = {}
        for name in rotated(list(ways), number):
            began = time.perf_counter()
            found[name] = ways[name]()
            seconds[name].append(time.perf_counter() - began)
        assert found[SWEEP] == found[SEPARATE], "the sweep must equal separate evaluations"
    return seconds


def evaluate(
    outputs: list[PageOutput], ratios: list[float], thresholds: list[float]
) -> list[Scores]:
    """Decode and score all maps; returns the scores at each threshold, at the first ratio."""
    found = sweep(
        (
            (candidates(o.probability, o.size, o.scale, unclip_ratios=ratios), o.truth)
            for o in outputs
        ),
        thresholds,
    )
    return found.curve(ratios[0])


def report(seconds: dict[str, list[float]], images: int) -> str:
    """The figures as Markdown."""
    rows = [
        [
            name,
            spread([1000 * taken / images for taken in times], 1),
            spread(
                [whole / taken for whole, taken in zip(seconds[SEPARATE], times, strict=True)], 1
            ),
        ]
        for name, times in seconds.items()
    ]
    columns = ["way", "ms an image", "times as fast as the evaluations"]
    return f"""\
{heading("Sweeping box_thresh", "decode_sweep FOLDER")}
Decoding and scoring of {images} probability maps of the val split. {len(seconds[SWEEP])} rounds in
turns; medians with ranges, ratios round by round.

{table(columns, rows)}
"""


if __name__ == "__main__":
    main()
