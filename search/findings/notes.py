"""A study and its trials in words: the notes that the dashboard shows, the head of the report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from search.findings.answer import confirmation_rows
from search.findings.facts import Comparison, Facts, seconds
from search.findings.importances import MIN_TRIALS
from search.findings.looks import WHY, latest, look_list, look_table
from search.findings.markup import Block, Code, Heading, Items, Table, Text, literal
from search.findings.wording import begins_said, clock, dimension_text, listed
from search.studies.reasons import known, reason
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig

MOST_ALARMS = 20  # in a list of them


def study_note(facts: Facts) -> list[Block]:
    """What a study found, to be read in a minute."""
    spec = facts.study.spec
    if (searched_study := spec.beside) is not None and spec.confirms is None:
        return [
            Heading(spec.name),
            Text(
                f"Trials that the rule of study {searched_study} has stopped, trained to their "
                f"ends: `segtune replay {searched_study}` says what the rule has lost. Which trial "
                "a run is stands in its user attribute `finishes`."
            ),
        ]
    if searched_study is not None:
        return [
            Heading(facts.study.spec.name),
            Text(
                f"The best trials of study {searched_study} on fresh seeds (`train.seed`), each "
                f"beside the same baseline. What they came to stands in the note of "
                f"{searched_study}; which trial a run repeats, in its user attribute `confirms`."
            ),
        ]
    return [
        *headline(facts),
        *confirmation(facts),
        *on_test(facts),
        *best_config(facts),
        *importances(facts),
        *ended(facts),
        *alarms(facts),
        *searched(facts),
        Text(
            f"Take it away: `segtune export {facts.study.spec.name} --to best/`. One file for a "
            f"colleague: `segtune report {facts.study.spec.name} --to report.html`."
        ),
    ]


def searched(facts: Facts) -> list[Block]:
    """What the study file asks for: the ranges, and how trials are drawn and stopped."""
    space, spec = facts.study.space, facts.study.spec
    rows = [
        (f"`{name}`", literal(dimension_text(dim)), _condition(space.when.get(name, {})))
        for name, dim in space.dims.items()
    ]
    budget = {**spec.budget.model_dump(exclude_none=True), "trials": facts.slot_count}
    until = budget.pop("until", None)
    return [
        Heading("What is searched", 3),
        Table(("setting", "values", "only where"), rows),
        Text(
            f"Sampler {spec.sampler.name}, early stopping {spec.pruner.name}, at most "
            f"{space.base.train.epochs} epochs a trial; budget "
            + ", ".join(f"{name} {value:g}" for name, value in budget.items())
            + ("" if until is None else ", until there is little left to gain")
            + "."
        ),
    ]


def _closed(facts: Facts) -> str:
    """Why no new trial begins, where none does."""
    if facts.own_end is not None:
        return f"; {facts.own_end.sentence(facts.study.metric)}"
    return f"; stopped ({facts.closed})" if facts.closed else ""


def headline(facts: Facts) -> list[Block]:
    """What was searched, how far it is, what was best."""
    spec = facts.study.spec
    done = sum(facts.slots[state] for state in ("COMPLETE", "PRUNED", "FAILED"))
    lines = [
        f"**{done} of {facts.slot_count} trials** have ended: {_counted(facts.slots)}"
        + _closed(facts),
        f"{clock(facts.seconds)} of device time, {facts.epochs[0]} epochs; early stopping of all "
        f"kinds saved **{facts.saved:.0%}** of the epochs",
    ]
    if facts.begins_with:
        lines.insert(1, literal(begins_said(facts.begins_with)))
    if facts.answer is not None:
        first, *rest = facts.answer.lines
        lines = [f"**{literal(first)}**", *map(literal, rest), *lines]
    return [Heading(f"{spec.name}: {spec.task.replace('_', ' ')}"), Items(lines)]


def confirmation(facts: Facts) -> list[Block]:
    """The best trials on fresh seeds."""
    if facts.answer is None or not facts.answer.evidence.ranking:
        return []
    columns, rows = confirmation_rows(facts.answer)
    return [Heading("On fresh seeds", 3), Table(columns, rows)]


def on_test(facts: Facts) -> list[Block]:
    """What the test split has said beside val, and how often it was looked at."""
    answer = facts.answer
    look = None if answer is None else latest(answer.looks)
    if answer is None or look is None:
        return []
    blocks: list[Block] = [
        Heading("On the test split", 3),
        Table(*look_table(look, answer.trial.number)),
        Text(f"{WHY}."),
    ]
    return [*blocks, Table(*look_list(answer.looks))] if len(answer.looks) > 1 else blocks


def best_config(facts: Facts) -> list[Block]:
    """The best trial's searched settings beside their defaults."""
    if facts.best is None:
        return [Text("No trial has ended with a value yet.")]
    rows = [(_name(row), row.default, row.best) for row in facts.comparison]
    return [
        Heading(f"Best config: trial {facts.best.number}", 3),
        Table(("setting", "default", "best"), rows),
    ]


def importances(facts: Facts) -> list[Block]:
    """Which settings matter, in words."""
    heading, count = Heading("What matters", 3), len(facts.complete)
    if count < MIN_TRIALS:
        text = f"Looked for once {MIN_TRIALS} trials have ended by themselves."
    elif not facts.importances:
        text = (
            f"Nothing can be named: over the {count} trials that ended by themselves, no setting "
            "explains more than chance does."
        )
    else:
        first, *others = (f"`{n}` {share:.0%}" for n, share in facts.importances.items())
        rest = f", {', '.join(others)}" if others else ""
        text = (
            f"**{first}**{rest}: the share of the differences in rank that each explains, over the "
            f"{count} trials that ended by themselves. The other settings explain no more than "
            "chance does."
        )
    return [heading, Text(text)]


def ended(facts: Facts) -> list[Block]:
    """Why trials ended."""
    if not facts.reasons:
        return []
    rows = [(name, count, known(name).sentence) for name, count in facts.reasons.items()]
    return [Heading("Why trials ended", 3), Table(("reason", "trials", "is"), rows)]


def alarms(facts: Facts) -> list[Block]:
    """The first trials that a health rule ended."""
    if not facts.alarms:
        return []
    lines = [f"trial {a.trial}: {a.reason} after {a.epochs} epochs" for a in facts.alarms]
    more = len(lines) - MOST_ALARMS
    return [Items([*lines[:MOST_ALARMS], *([f"and {more} more"] if more > 0 else [])])]


def trial_note(trial: FrozenTrial, config: TrialConfig, metric: str) -> list[Block]:
    """Why a trial ended, and everything that it was trained with."""
    facts, why = TrialFacts.of(trial), reason(trial)
    value = "no value" if trial.value is None else f"{metric} {trial.value:.4f}"
    if facts.folds:
        value += f", the mean of {len(facts.folds)} folds: {listed(facts.folds)}"
    elif facts.best_epoch:
        value += f" at epoch {facts.best_epoch} of {facts.epochs}"
    lines = [f"**{why}**: {known(why).sentence}", value, f"{clock(seconds(trial))} of device time"]
    if facts.bar is not None:
        lines.insert(1, f"held against {facts.bar:.4f}")
    if facts.error:
        lines.append(f"error: {literal(facts.error)}")
    if facts.origin:
        lines.append(f"starting point: `{facts.origin}`")
    if facts.confirms is not None:
        lines.append(f"trial {facts.confirms} of the search, on another seed")
    if facts.finishes is not None:
        lines.append(f"trial {facts.finishes} of the search, trained to its end")
    if facts.hardware:
        lines.append(", ".join(f"{name} {value}" for name, value in facts.hardware.items()))
    settings = "\n".join(f"{name}: {value}" for name, value in config.flat().items())
    return [Items(lines), Heading("Effective config", 3), Code(settings)]


def _condition(conditions: Mapping[str, Collection[Any]]) -> str:
    return literal("; ".join(f"{n} = {' or '.join(map(str, v))}" for n, v in conditions.items()))


def _counted(slots: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state.lower()}" for state, count in slots.items() if count)


def _name(row: Comparison) -> str:
    return f"`{row.setting}`" if _same(row.default, row.best) else f"**{row.setting}**"


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)
