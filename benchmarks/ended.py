"""What a newly ended trial costs a verdict, at 1,000 and 10,000 ended ones of 50 epochs.

python -m benchmarks.ended
"""

from __future__ import annotations

import random
import statistics
import time

from search.stopping.curves import Curve, EndedCurves

EPOCHS = 50
LAST = 200  # trials that end one after another, each followed by a verdict


def main() -> None:
    """Print milliseconds for 1,000 and 10,000 ended trials."""
    for trials in (1_000, 10_000):
        rng = random.Random(0)
        curves = [Curve(tuple(rng.random() for _ in range(EPOCHS)), 2) for _ in range(trials)]
        began = time.perf_counter()
        ended = EndedCurves.of(curves[:-LAST])
        loaded = time.perf_counter() - began
        added, looked = [], []
        for trial, curve in enumerate(curves[-LAST:], start=trials - LAST):
            began = time.perf_counter()
            ended.add({trial: curve})
            between = time.perf_counter()
            ended.bests(EPOCHS // 2)
            added.append(between - began)
            looked.append(time.perf_counter() - between)
        print(
            f"{trials:,} ended: all at once {loaded * 1e3:.1f} ms, "
            f"one more {statistics.median(added) * 1e3:.3f} ms, "
            f"a look {statistics.median(looked) * 1e3:.3f} ms"
        )


if __name__ == "__main__":
    main()
