"""Where the workers of a launch go."""

from __future__ import annotations

import pytest

from search.team import place


@pytest.mark.parametrize(
    ("workers", "per_gpu", "gpus", "visible", "places"),
    [
        (None, 1, 0, None, [None]),
        (3, 1, 0, None, [None] * 3),
        (None, 1, 4, None, ["0", "1", "2", "3"]),
        (None, 2, 2, None, ["0", "0", "1", "1"]),
        (3, 1, 2, None, ["0", "1", "0"]),
        (None, 1, 2, "5,7", ["5", "7"]),  # a scheduler has given us these two
        (None, 1, 1, "GPU-8c1f", ["GPU-8c1f"]),
    ],
)
def test_one_worker_a_gpu_unless_told_otherwise(
    workers: int | None,
    per_gpu: int,
    gpus: int,
    visible: str | None,
    places: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert place(workers, per_gpu, gpus) == places
