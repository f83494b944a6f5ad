"""A study on one page: a self-contained HTML file with its graphs, or Markdown without them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from search.database.optuna_private import id_of_trial
from search.files.artifacts import Artifacts
from search.files.shown import bring
from search.findings.facts import Facts, gather
from search.findings.front_section import fronts
from search.findings.leaderboard import MOST, listed_settings, read_leaderboard
from search.findings.markup import (
    Block,
    Code,
    Folded,
    Heading,
    Items,
    Row,
    Table,
    Text,
    cell,
    literal,
)
from search.findings.notes import best_config, confirmation, ended, headline, importances, on_test
from search.findings.page import as_page, graph, write_page
from search.findings.search_graphs import history, importances_graph, slices
from search.findings.thumbnails import thumbnails
from search.findings.trial_graphs import study_figures
from search.findings.versions import versions
from search.findings.wording import clock
from search.studies.reasons import known, reason
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError
from spaces.yamlfile import dump_yaml

TOP = {"html": 20, "md": 10}  # rows of the leaderboard, and of the alarms
SLICE_HEIGHT = 280  # pixels
COLUMNS = 4  # of the leaderboard that are settings; it lists the others
PICTURE_BYTES = 300_000  # of all pictures; a page must stay below 6 MB with Plotly's 4.8
DRAWN = datetime.timedelta(minutes=10)  # after a trial's end its pictures are there
PICTURES = "pictures"  # folder of a trial's pictures, in its own


def write_report(study: Study, to: Path, form: str, artifacts: Artifacts) -> int:
    """Write the report of a study into a file, whole or not at all.

    Args:
        form: one of FORMATS.
        artifacts: where the trials' files are; the best trial's pictures may be among them.

    Returns:
        Its size in bytes.

    Raises:
        InputError: no trial has ended yet, or the file cannot be written.
    """
    return write_page(to, report_text(study, form, artifacts))


def report_text(study: Study, form: str, artifacts: Artifacts) -> str:
    """Return the text of a study's report; arguments as of `write_report`."""
    facts = gather(study)
    if not facts.ended:
        raise InputError(
            f"study {study.spec.name} has nothing to report: no trial has ended yet; see "
            f"`segtune status {study.spec.name}`"
        )
    blocks = report_blocks(facts, artifacts, form)
    return as_page(study.spec.name, blocks, form)


def report_blocks(facts: Facts, artifacts: Artifacts, form: str = "html") -> list[Block]:
    """What a report says, in its order; Markdown has no graphs and is shorter."""
    top, graphs = TOP[form], form == "html"
    title, *lines = headline(facts)
    figures = study_figures(facts) if graphs else {}
    blocks = [
        title,
        Text(f"Written {_now()} by segtune {versions()['segtune']}."),
        *lines,
        *confirmation(facts),
        *on_test(facts),
        *best_config(facts),
        *importances(facts),
        *(graph("importances", importances_graph(facts)) if graphs else []),
        *ended(facts),
        *leaderboard(facts, top),
        *fronts(facts, graphs=graphs),
        *(search_graphs(facts, figures) if graphs else []),
        *early_stopping(facts),
        *graph("early-stopping", figures.get("early-stopping")),
        *health_alarms(facts, top),
        *(best_trials(facts, figures, artifacts) if graphs else []),
        *reproduce(facts),
    ]
    return [replace(b, level=b.level - 1) if isinstance(b, Heading) else b for b in blocks]


def leaderboard(facts: Facts, top: int) -> list[Block]:
    """The best trials and how their settings differ."""
    board = read_leaderboard(facts, top)
    if board is None:
        return []
    shown, listed = board.differing[:COLUMNS], board.differing[COLUMNS:MOST]
    ranks = any(board.bands)
    rows = [
        (
            *([band] if ranks else []),
            trial.number,
            f"{trial.value:.4f}",
            *(_plain(settings.get(name)) for name in shown),
            board.epochs(trial),
            reason(trial),
            known.origin or facts.study.spec.sampler.name,
            literal(listed_settings(settings, listed)),
        )
        for band, trial, settings, known in zip(
            board.bands,
            board.trials,
            board.settings,
            map(TrialFacts.of, board.trials),
            strict=True,
        )
    ]
    columns = (
        *(["rank"] if ranks else []),
        "trial",
        f"{facts.study.metric}, one seed",
        *shown,
        "epochs",
        "ended",
        "from",
    )
    said = f"{len(board.trials)} of {len(facts.ranking)} trials with a value, best first."
    return [
        Heading("Leaderboard", 3),
        Table((*columns, "other settings that differ"), rows),
        Text(" ".join([said, *map(literal, board.notes)])),
    ]


def search_graphs(facts: Facts, figures: Mapping[str, go.Figure]) -> list[Block]:
    """The search by trial, against its cost, and setting by setting."""
    if not facts.ranking:
        return []
    graphs = [
        graph(f"slice-{number}", figure, SLICE_HEIGHT)[0]
        for number, figure in enumerate(slices(facts).values())
    ]
    blocks: list[Block] = [
        Heading("The search", 3),
        *graph("history", history(facts)),
        *graph("value-against-cost", figures.get("value-against-cost")),
    ]
    if graphs:
        blocks += [
            Heading("Setting by setting", 3),
            Text(
                f"{facts.study.metric} against {len(graphs)} of the {len(facts.searched)} searched "
                f"settings{_most(facts)}. A darker point is a later trial, a hollow one was "
                "stopped, the diamond is the best. A trial in which a setting does not count is "
                "not in its graph."
            ),
            Row(graphs),
        ]
    return blocks


def early_stopping(facts: Facts) -> list[Block]:
    """The epochs that were not trained, and what ended those trials."""
    heading = Heading("What early stopping saved", 3)
    trained, full = facts.epochs
    if not trained:
        return [heading, Text("No trial has trained an epoch.")]
    length = facts.study.full_epochs
    rows = []
    trained_by: dict[str, list[int]] = {}
    for trial in facts.judged:
        trained_by.setdefault(reason(trial), []).append(TrialFacts.of(trial).epochs or 0)
    for name in facts.reasons:
        if epochs := trained_by.get(name):
            saved = len(epochs) * length - sum(epochs)
            share = f"{saved / (full - trained):.0%}" if full > trained else None
            rows.append((name, len(epochs), sum(epochs), saved, share))
    spared = clock(facts.seconds / trained * (full - trained))
    return [
        heading,
        Text(
            f"**{full - trained} of {full} epochs** ({facts.saved:.0%}) were not trained: at the "
            f"study's mean of {facts.seconds / trained:.3g} s an epoch, about {spared} of device "
            "time. Trials that failed, or could not be trained at all, do not count."
        ),
        Table(("ended by", "trials", "epochs trained", "epochs saved", "of all saved"), rows),
    ]


def health_alarms(facts: Facts, top: int) -> list[Block]:
    """The trials that a health rule ended."""
    heading = Heading("Health alarms", 3)
    if not facts.alarms:
        return [heading, Text("No health rule has ended a trial.")]
    rows = [(a.trial, a.reason, a.epochs, known(a.reason).sentence) for a in facts.alarms[:top]]
    blocks: list[Block] = [heading, Table(("trial", "alarm", "after epochs", "is"), rows)]
    if (more := len(facts.alarms) - top) > 0:
        blocks.append(Text(f"And {more} more."))
    return blocks


def best_trials(
    facts: Facts, figures: Mapping[str, go.Figure], artifacts: Artifacts
) -> list[Block]:
    """Losses, classes and thresholds of the best trials; pictures of the best one."""
    if facts.best is None:
        return []
    folder = artifacts.workdir(facts.study, facts.best.number) / PICTURES
    if artifacts.bucket is not None and not folder.is_dir():  # drawn on another machine
        bring(artifacts.shown, facts.study, id_of_trial(facts.best), folder)
    pictures, left_out = thumbnails(folder, PICTURE_BYTES)
    blocks: list[Block] = [Heading("The best trials", 3)]
    for name in ("loss-parts", "per-class-iou", "box-thresh"):
        blocks += graph(name, figures.get(name))
    if pictures:
        blocks += [Text(f"Pictures of trial {facts.best.number}:"), Row(pictures)]
    if left_out:
        blocks.append(Text(f"{left_out} pictures are left out: no room, or not readable."))
    if not pictures and not left_out:
        number = facts.best.number
        missing = (
            f"Pictures of trial {number} are pending: a worker draws them beside its next trial. "
            "They are in a report that is written later."
            if _pending(facts, facts.best)
            else f"There are no pictures of trial {number} in the artifacts folder of the machine "
            "that wrote this report."
        )
        blocks.append(Text(missing))
    return blocks


def reproduce(facts: Facts) -> list[Block]:
    """Study file, data, software and commands."""
    study, name = facts.study, facts.study.spec.name
    found = {"left_out", "init_sha256"}  # in no study file
    spec = dump_yaml(study.spec.model_dump(mode="json", exclude=found), width=90)
    of = "file, split and class" if study.spec.data.class_names else "file and split"
    lines = [
        f"data fingerprint `{study.fingerprint}`: SHA-256 over every {of}; "
        "launching on other data under this name is refused",
        f"study uid `{study.uid}`, seed {study.spec.seed}",
    ]
    if facts.best is not None and (hardware := TrialFacts.of(facts.best).hardware):
        named = (literal(f"{name} {value}") for name, value in hardware.items())
        lines.append("the best trial ran on " + ", ".join(named))
    return [
        Heading("How to reproduce", 3),
        Code(
            "segtune launch study.yaml                       # the file below\n"
            f"segtune export {name} --to best/\n"
            "segtune evaluate best/ --data val               # the exported model's score\n"
            "segtune train best/config.yaml --to full/       # the best config, in full"
        ),
        Items(lines),
        Folded("Versions, where this report was written", [_versions()]),
        Folded("study.yaml, with the paths of where it was launched", [Code(spec)]),
    ]


def _versions() -> Table:
    return Table(("package", "version"), list(versions().items()))


def _most(facts: Facts) -> str:
    return ", those that matter most" if facts.importances else ""


def _pending(facts: Facts, trial: FrozenTrial) -> bool:
    """Whether pictures of a trial may still be drawn: those of the best whose weights are kept."""
    if trial.number not in facts.kept or TrialFacts.of(trial).model_sha256 is None:
        return False
    ended = trial.datetime_complete
    fresh = ended is not None and datetime.datetime.now() - ended < DRAWN
    return fresh or facts.slots["RUNNING"] > 0


def _plain(value: Any) -> Any:
    """A cell's value; `-` of a setting that does not count in the trial."""
    return value if isinstance(value, int | float) else literal(cell(value))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
