"""What sweeping box_thresh costs beside evaluating each value, on real probability maps.

    python -m benchmarks.decode_sweep FOLDER       # an exported text detector

Decoding and scoring only: the maps of the val split are computed once, before the clock starts.
Both ways are timed in turn, and must find the same score at every value.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.text import device_line, load_export
from spaces.space import Free
from trainers.dbnet.decode import candidates
from trainers.dbnet.score import Scores, sweep
from trainers.text_detection import PageOutput

THRESHOLDS = Free(0.1, 0.9, 0.05).values()
REPEATS = 7


def main() -> None:
    """Print both times, their ratio, and the cost of further unclip ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an exported text detector")
    task, model, _ = load_export(parser.parse_args().folder)
    outputs = [output for output, _ in task.outputs(model, "val")]
    ratio, ratios = task.config.decode.unclip_ratio, [1.5, 2.0, 2.5, 3.0]
    times: dict[str, list[float]] = {"separate": [], "sweep": [], "sweep4": []}
    for _ in range(REPEATS):
        began = time.perf_counter()
        separate = [evaluate(outputs, [ratio], [at])[0] for at in THRESHOLDS]
        times["separate"].append(time.perf_counter() - began)
        began = time.perf_counter()
        swept = evaluate(outputs, [ratio], THRESHOLDS)
        times["sweep"].append(time.perf_counter() - began)
        began = time.perf_counter()
        evaluate(outputs, ratios, THRESHOLDS)
        times["sweep4"].append(time.perf_counter() - began)
        assert swept == separate, "the sweep must equal separate evaluations"
    pairs = [a / b for a, b in zip(times["separate"], times["sweep"], strict=True)]
    milliseconds = {
        name: 1000 * statistics.median(taken) / len(outputs) for name, taken in times.items()
    }
    print(f"machine                        {device_line()}")
    print(f"images                         {len(outputs)}")
    print(f"17 evaluations, an image       {milliseconds['separate']:.1f} ms")
    print(f"one sweep of 17, an image      {milliseconds['sweep']:.1f} ms")
    print(f"one sweep of 17 x 4 ratios     {milliseconds['sweep4']:.1f} ms")
    print(
        f"ratio                          1/{statistics.median(pairs):.1f} "
        f"(1/{min(pairs):.1f} to 1/{max(pairs):.1f})"
    )


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


if __name__ == "__main__":
    main()
