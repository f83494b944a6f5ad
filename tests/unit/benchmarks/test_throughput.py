"""The arithmetic of the throughput benchmark, and one whole small run of its command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import sharing, throughput
from benchmarks.loops import AMP, FP32, LIMIT, OURS, installed
from benchmarks.plain import Setup
from benchmarks.throughput import Measured, kept, last_scores, ratios, report, seed_noise
from benchmarks.turns import Epoch


def epochs(*rows: tuple[float, float, float]) -> list[Epoch]:
    return [Epoch(*row) for row in rows]


ROUNDS = [
    {
        OURS: epochs((50, 99, 0.1), (2, 3, 0.2), (2, 4, 0.3)),
        FP32: epochs((1, 1, 0.1), (4, 9, 0.2), (3, 8, 0.4)),
        LIMIT: epochs((1, 1, 0.1), (1, 2, 0.2), (2, 3, 0.5)),
    },
    {
        OURS: epochs((70, 99, 0.1), (4, 5, 0.2), (4, 5, 0.5)),
        FP32: epochs((1, 1, 0.1), (8, 10, 0.2), (10, 20, 0.2)),
        LIMIT: epochs((1, 1, 0.1), (3, 5, 0.2), (4, 6, 0.7)),
    },
]


def test_first_epochs_do_not_count() -> None:
    assert [epoch.train_seconds for epoch in kept(ROUNDS, OURS)] == [2, 2, 4, 4]


def test_ratios_pair_the_epochs_of_one_turn() -> None:
    assert ratios(ROUNDS, FP32, training=True) == [2, 1.5, 2, 2.5]
    assert ratios(ROUNDS, FP32, training=False) == [3, 2, 2, 4]
    assert ratios(ROUNDS, LIMIT, training=True) == [0.5, 1, 0.75, 1]


def test_scores_are_the_last_epochs_against_seed_noise() -> None:
    assert last_scores(ROUNDS, LIMIT) == [0.5, 0.7]
    difference, error = seed_noise([0.3, 0.5], [0.5, 0.7])
    assert difference == pytest.approx(-0.2)
    assert error == pytest.approx((0.02 / 2 + 0.02 / 2) ** 0.5)


def test_the_report_tells_it(setup: Setup) -> None:
    text = report([Measured(setup, ROUNDS, {FP32: 2}, [0, 2], cold=100.0)], 1.25)
    assert "| segtune | 6.8 (4.5 to 9.0) | 4.50 s (3.00 to 5.00) | 0.4000 (0.3000 to 0.5000) |" in (
        text
    )
    aim = " | at least 1.8 |" if not torch.cuda.is_available() else " |  |"
    assert f"| {FP32} | 2.00 (1.50 to 2.50) | 2.50 (2.00 to 4.00){aim}" in text
    assert f"| {LIMIT} | 0.88 (0.50 to 1.00) |" in text
    assert "-0.2000 ± 0.1414" in text
    assert "1.0 s (first epoch 100.0 s cold, 99.0 s warm)" in text
    assert f"2 for {FP32}" in text and "Lightning is not installed" in text
    assert "18 train and 4 val images" in " ".join(text.split())


def test_one_round_has_no_seed_noise(setup: Setup) -> None:
    text = report([Measured(setup, ROUNDS[:1], {}, [0], cold=100.0)], 0.0)
    assert "±" not in text


def test_the_sharing_report_sums_what_runs_at_once(setup: Setup) -> None:
    text = sharing.report([[(2.0, 3.0), (2.0, 2.0), (1.0, 2.0)]], [setup], 3)
    assert "| 32x64 | 9.0 (9.0 to 18.0) | 27.0 (18.0 to 27.0) | 2.00 (1.50 to 3.00) |" in text


@pytest.mark.cluster
def test_the_command_measures_every_loop(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    given = f"--data {streets} --resolution 32x32 --epochs 2 --pairs 2 --to {path}"
    monkeypatch.setattr(sys, "argv", ["throughput", *given.split()])
    monkeypatch.setattr(throughput, "_worker_counts", lambda gpu: [0])
    monkeypatch.setenv("SEGTUNE_HOME", "")  # the command sets it; put back at the end
    throughput.main()
    text = path.read_text()
    for name in installed():
        assert text.count(f"| {name} |") == (1 if name == OURS else 2), text
    assert "## 32x32" in text and text.count("±") == len(installed()) - 1
    assert f"0 for {FP32}, 0 for {AMP}" in text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--epochs 1", "--epochs must be at least 2"),
        ("--pairs 0", "--pairs must be at least 1"),
        ("--per-gpu 1", "--per-gpu must be at least 2"),
        ("--resolution 96x100", "multiples of 32, but got 96x100"),
        ("--resolution tall", "--resolution: must be HxW"),
        ("--data nowhere", "nowhere"),
    ],
)
def test_wrong_input_starts_nothing(
    given: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["throughput", *given.split()])
    monkeypatch.setenv("SEGTUNE_HOME", "")
    with pytest.raises(SystemExit) as error:
        throughput.main()
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_sharing_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["throughput", "--per-gpu", "2"])
    monkeypatch.setenv("SEGTUNE_HOME", "")
    with pytest.raises(SystemExit) as error:
        throughput.main()
    assert error.value.code == 2
    assert "none is visible" in capsys.readouterr().err
