"""Tables for people: studies, one study, a space, scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from search.findings.answer import confirmation_rows
from search.findings.evidence import CONFIDENCE, difference_on
from search.findings.facts import gather
from search.findings.leaderboard import MOST, Leaderboard, listed_settings, read_leaderboard
from search.findings.wording import begins_said, clock, describe, dimension_text, listed
from search.studies.reasons import reason
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig, parameter_types
from spaces.data import AnyDataSpec
from spaces.space import Space
from trainers.image_counts import score_of
from trainers.report import Detection

ROWS = 5  # of the leaderboard

if TYPE_CHECKING:  # it brings torch
    from trainers.evaluate import Evaluation


def show_studies(summaries: list[dict[str, Any]], console: Console) -> None:
    """One line a study, with the size of its files where that is known."""
    if not summaries:
        console.print("no study yet; start one with: segtune launch STUDY.yaml")
        return
    table = Table()
    sizes = ("files",) if "bytes" in summaries[0] else ()
    for column in ("study", "ended", "running", "best", "seeds", "trial", "time", *sizes):
        table.add_column(column, justify="left" if column == "study" else "right")
    for summary in summaries:
        slots, answer = summary["slots"], summary["answer"]
        ended = slots["COMPLETE"] + slots["PRUNED"] + slots["FAILED"]
        table.add_row(
            summary["name"],
            f"{ended}/{sum(slots.values())}",
            str(slots["RUNNING"]),
            f"{summary['metric']} {answer['value']:.4f}{', trivial' if answer['trivial'] else ''}"
            if answer
            else "-",
            str(len(answer["fresh_seeds"]) or "one") if answer else "-",
            str(answer["trial"]) if answer else "-",
            clock(summary["seconds"]),
            *(f"{summary['bytes'] / 1e6:,.1f} MB" for _ in sizes),
        )
    console.print(table)


def show_study(summary: dict[str, Any], console: Console) -> None:
    """A study's totals and every trial of it."""
    slots, answer, says = summary["slots"], summary["answer"], summary["says"]
    if answer is not None and answer["trivial"]:  # before all else
        first, *says = says
        console.print(first, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{summary['name']}: "
        + ", ".join(f"{count} {state.lower()}" for state, count in slots.items() if count),
        highlight=False,
    )
    if summary["begins_with"]:
        console.print(begins_said(summary["begins_with"]), highlight=False, soft_wrap=True)
    console.print(
        f"{summary['epochs']} epochs in {clock(summary['seconds'])}; early stopping saved "
        f"{summary['epochs_saved']:.0%} of the epochs of the trials that have ended",
        highlight=False,
    )
    for line in says:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in _devices(summary["trials"]):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    table = Table()
    folds = any(row["folds"] for row in summary["trials"])
    columns = ("trial", "state", "reason", summary["metric"], *(["folds"] if folds else []))
    for column in (*columns, "best at", "epochs", "config"):
        table.add_column(column, no_wrap=column not in ("config", "reason", "folds"))
    for row in summary["trials"]:
        value, best_epoch, epochs = how_far(row)
        table.add_row(
            str(row["number"]),
            row["state"],
            row["error"] or row["reason"] or "",
            "-" if value is None else f"{value:.4f}",
            *([listed(row["folds"] or ())] if folds else []),
            str(best_epoch or "-"),
            epochs,
            describe(row["params"]),
        )
    console.print(table)


def how_far(row: dict[str, Any]) -> tuple[float | None, int | None, str]:
    """(value, its epoch, epochs) of a trial; of one that has not ended those so far."""
    found = row["so_far"]
    if found is None:
        return row["value"], row["best_epoch"], str(row["epochs"] or "-")
    fold = "" if found["fold"] is None else f"fold {found['fold']}, "
    return found["best"], found["best_epoch"], f"{fold}{found['epoch']}/{found['of']}"


def _devices(rows: list[dict[str, Any]]) -> list[str]:
    """What the trials trained on, a line for each device and precision."""
    peaks: dict[tuple[str, str], list[float]] = {}
    for hardware in (row["hardware"] for row in rows if row["hardware"] and row["epochs"]):
        key = hardware.get("device", "?"), hardware.get("precision", "?")
        peaks.setdefault(key, []).append(hardware.get("peak_memory_mb", 0))
    return [
        f"trained on {device} in {precision}: {len(found)} trials"
        + (f", at most {max(found):.0f} MiB of memory" if max(found) else "")
        for (device, precision), found in peaks.items()
    ]


def show_workers(workers: list[dict[str, Any]], console: Console) -> None:
    """One line a worker: where it is, what it runs, since when."""
    if not workers:
        return
    table = Table(title="workers", title_justify="left")
    for column in (
        "host",
        "pid",
        "device",
        "job",
        "state",
        "study",
        "trial",
        "for",
        "last seen",
    ):
        table.add_column(column)
    for row in workers:
        table.add_row(
            row["host"],
            str(row["pid"]),
            row["device"],
            row["job"] or "-",
            row["state"],
            row["study"] or "-",
            "-" if row["trial_number"] is None else str(row["trial_number"]),
            "-" if row["for_seconds"] is None else clock(row["for_seconds"]),
            f"{clock(row['silent_seconds'])} ago",
        )
    console.print(table)


def show_space(space: Space, console: Console) -> None:
    """Every dimension with its range and condition, then what is fixed."""
    table = Table(title="searched", title_justify="left")
    for column in ("setting", "values", "only where"):
        table.add_column(column)
    for name, dim in space.dims.items():
        condition = "; ".join(
            f"{other} = {' or '.join(map(str, values))}"
            for other, values in space.when.get(name, {}).items()
        )
        table.add_row(name, dimension_text(dim), condition)
    console.print(table)
    fixed = Table(title="fixed (name one in `space:` to change or search it)", title_justify="left")
    fixed.add_column("setting")
    fixed.add_column("value")
    for name, value in space.base.flat().items():
        if name not in space.dims and name in parameter_types(type(space.base)):
            fixed.add_row(name, str(value))
    console.print(fixed)


def show_scores(found: Evaluation, classes: Sequence[str], split: str, console: Console) -> None:
    """The metric, then each class, or precision and recall of a detector."""
    scores = found.scores
    if scores.detection is not None:
        _show_detection(found, scores.detection, split, console)
        if found.cleval is not None:
            text = ", ".join(f"{name} {value:.4f}" for name, value in found.cleval.items())
            console.print(f"CLEval: {text}", highlight=False)
        return
    console.print(
        f"{split} {found.metric} {scores.metric:.6f}, pixel accuracy {scores.pixel_accuracy:.4f}"
        + _others(found),
        highlight=False,
    )
    for key, value in (scores.binary or {}).items():
        console.print(f"  {key} {value:.4f}", highlight=False)
    table = Table()
    table.add_column("class")
    table.add_column("IoU", justify="right")
    for label, iou in zip(classes, scores.per_class or (), strict=True):
        table.add_row(label, "absent" if iou != iou else f"{iou:.4f}")
    console.print(table)


def show_fold_scores(folds: Sequence[Evaluation], split: str, console: Console) -> None:
    """The metric of each fold's model on its own images of a split, and their mean."""
    values = [found.scores.metric for found in folds]
    console.print(
        f"{split} {folds[0].metric} {fmean(values):.6f}, the mean of {len(folds)} folds: "
        f"{listed(values)}",
        highlight=False,
    )
    for number, found in enumerate(folds, 1):
        if found.cleval is not None:
            text = ", ".join(f"{name} {value:.4f}" for name, value in found.cleval.items())
            console.print(f"fold {number}, CLEval: {text}", highlight=False)


def show_difference(
    found: Evaluation,
    beside: Evaluation,
    folder: Path,
    against: Path,
    spec: AnyDataSpec,
    config: TrialConfig,
    console: Console,
) -> None:
    """One export's score less another's on the same images."""
    score = score_of(config.metric, spec)
    gain = difference_on(score, [found.images.counts], [beside.images.counts])
    console.print(
        f"{against}: {beside.metric} {beside.scores.metric:.6f}; {folder} has "
        f"{found.scores.metric - beside.scores.metric:+.6f}",
        highlight=False,
    )
    if gain is None:
        console.print("  a single image says nothing of the difference")
        return
    low, high = gain.mean - gain.half, gain.mean + gain.half
    shown = "no difference that these images show" if low <= 0 <= high else "a difference"
    console.print(
        f"  {CONFIDENCE:.0%} interval over the {len(found.images.counts)} images: {low:+.4f} to "
        f"{high:+.4f}: {shown}. Another seed of either may move it as well (segtune confirm)",
        highlight=False,
    )


def _others(found: Evaluation) -> str:
    """The metrics that are not the chosen one."""
    others = found.scores.metrics.items()
    return "".join(f", {name} {value:.4f}" for name, value in others if name != found.metric)


def _show_detection(found: Evaluation, detection: Detection, split: str, console: Console) -> None:
    console.print(
        f"{split} {found.metric} {found.scores.metric:.6f}, precision {detection.precision:.4f}, "
        f"recall {detection.recall:.4f}" + _others(found),
        highlight=False,
    )
    if detection.images_over_max_candidates:
        console.print(
            f"warning: decode.max_candidates left text out in "
            f"{detection.images_over_max_candidates} images; raise it",
            highlight=False,
        )


def show_answer(study: Study, console: Console) -> None:
    """The best trials of a study, its confirmation, and what may be said."""
    facts = gather(study)
    answer, board = facts.answer, read_leaderboard(facts, ROWS)
    if answer is None or board is None:
        if refused := facts.reasons.get("limit"):
            console.print(
                f"{refused} trials were outside of the study's limits, and none within has a "
                f"value: see segtune status {study.spec.name}, and give a new study wider limits",
                highlight=False,
                soft_wrap=True,
            )
        return
    if answer.warning is not None:
        console.print(answer.warning, highlight=False, markup=False, soft_wrap=True)
    console.print(leaderboard(board))
    for note in board.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if answer.evidence.ranking:
        columns, rows = confirmation_rows(answer)
        table = Table(title="the best on fresh seeds", title_justify="left")
        for column in columns:
            table.add_column(column, justify="left" if column == "is" else "right")
        for row in rows:
            table.add_row(*map(str, row))
        console.print(table)
    for line in answer.lines[answer.warning is not None :]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def leaderboard(board: Leaderboard) -> Table:
    """The best trials by their value in the search; its column of ranks needs known noise."""
    study = board.facts.study
    table = Table(title=f"{study.spec.name}: best trials of the search", title_justify="left")
    for column, justify in (
        ("rank", "right"),
        ("trial", "right"),
        (f"{study.metric}, one seed", "right"),
        ("ended", "left"),
        ("epochs", "right"),
        ("settings that differ", "left"),
    ):
        wraps = column == "settings that differ"
        table.add_column(column, justify=justify, no_wrap=not wraps)  # type: ignore[arg-type]
    for trial, band, settings in zip(board.trials, board.bands, board.settings, strict=True):
        origin = TrialFacts.of(trial).origin
        listed = listed_settings(settings, board.differing[:MOST])
        table.add_row(
            band,
            str(trial.number),
            f"{trial.value:.4f}",
            reason(trial),
            str(board.epochs(trial)),
            f"{listed} ({origin})" if origin else listed,
        )
    return table
