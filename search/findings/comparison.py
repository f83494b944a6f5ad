"""Two studies side by side: what they answer, how soon they found it, and in what they differ."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText
from scipy import stats

from search.findings.answer import Answer, read_answer
from search.findings.evidence import CONFIDENCE
from search.findings.graph_style import COLOURS, label, plain, titled
from search.findings.markup import Block, Heading, Items, Table, Text, cell, literal
from search.findings.page import graph
from search.findings.wording import clock, dimension_text, first_settings
from search.studies.study import Study
from search.studies.trial_facts import TrialFacts
from spaces.config import TrialConfig
from spaces.space import Space

ALONE = ("name", "space", "workers", "trackers", "use_default_space", "left_out")
"""Keys of a study file that are shown elsewhere, or change no result."""
AT = (1, 2, 5)  # and ten times as many, and so on


@dataclass(frozen=True)
class Side:
    """One of the two, read once."""

    study: Study
    trials: Sequence[FrozenTrial]

    @classmethod
    def of(cls, study: Study) -> Side:
        return cls(study, study.trials())

    @property
    def name(self) -> str:
        return self.study.spec.name

    @cached_property
    def answer(self) -> Answer | None:
        return read_answer(self.study, self.trials)

    @cached_property
    def config(self) -> TrialConfig | None:
        """Of the trial that the study answers with."""
        return None if self.answer is None else self.study.config(self.answer.trial)

    @cached_property
    def ended(self) -> list[FrozenTrial]:
        """Trials in the order in which they have ended."""
        ended = [trial for trial in self.trials if trial.state.is_finished()]
        return sorted(ended, key=lambda trial: (str(trial.datetime_complete), trial.number))

    @cached_property
    def best_so_far(self) -> list[tuple[int, float | None]]:
        """(Epochs trained, best value) after each trial that has ended."""
        ranked = () if self.answer is None else self.answer.ranking
        valued = {trial.number: trial.value for trial in ranked}
        steps: list[tuple[int, float | None]] = []
        epochs, best = 0, -math.inf
        for trial in self.ended:
            epochs += TrialFacts.of(trial).epochs or 0
            best = max(best, valued.get(trial.number) or -math.inf)
            steps.append((epochs, None if best == -math.inf else best))
        return steps

    @cached_property
    def curve(self) -> list[float]:
        """The metric of each epoch of that trial, in the search."""
        if self.answer is None:
            return []
        return [report.metric for report in self.study.history(self.answer.trial.number)]


def compare(one: Study, other: Study) -> list[Block]:
    """Say what two studies have in common and what not; neither needs to have ended."""
    sides = Side.of(one), Side.of(other)
    names = [literal(side.name) for side in sides]
    return [
        Heading(f"{names[0]} and {names[1]}", 1),
        *_best(sides),
        *_curves(sides),
        *_section("Settings of both best trials that differ", sides, *map(_settings, sides)),
        *_section("Spaces: what differs", sides, *(_space(s.study.space) for s in sides)),
        *_section("Studies: what differs", sides, *map(_study, sides)),
    ]


def show(blocks: Iterable[Block], console: Console) -> None:
    """Print what `compare` says."""
    for block in blocks:
        if isinstance(block, Heading):
            console.print(f"\n{_unmarked(block.text)}", style="bold", markup=False)
        elif isinstance(block, Text):
            console.print(_unmarked(block.text), highlight=False, markup=False, soft_wrap=True)
        elif isinstance(block, Items):
            for item in block.items:
                console.print(_unmarked(item), highlight=False, markup=False, soft_wrap=True)
        elif isinstance(block, Table):
            table = RichTable()
            for column, numeric in zip(block.columns, block.numeric, strict=True):
                table.add_column(RichText(column), justify="right" if numeric else "left")
            for row in block.rows:
                table.add_row(*(RichText(cell(value)) for value in row))
            console.print(table)


def _unmarked(text: str) -> str:
    """Take back what `literal` did."""
    return text.replace("\\\\", "\0").replace("\\", "").replace("\0", "\\")


def _best(sides: tuple[Side, Side]) -> list[Block]:
    lines = []
    for side in sides:
        said = ["no trial has ended with a value yet"]
        if side.answer is not None:
            said = [line for line in (side.answer.headline, side.answer.warning) if line]
        lines += [literal(f"{side.name}: {line}") for line in said]
    rows: list[tuple[Any, ...]] = []
    for what, of in _TOTALS.items():
        rows.append((what, *(of(side) for side in sides)))
    return [
        Items([*lines, *map(literal, _difference(*sides))]),
        Table(("", *(side.name for side in sides)), rows),
    ]


def _difference(one: Side, other: Side) -> list[str]:
    """What may be said of the difference of both answers."""
    found = []
    if one.study.spec.metric != other.study.spec.metric or one.study.metric != other.study.metric:
        metrics = f"{one.name} by {one.study.metric}, {other.name} by {other.study.metric}"
        same = one.study.metric == other.study.metric
        found.append(f"{metrics}{' of other classes' if same else ''}")
    if one.study.fingerprint != other.study.fingerprint:
        found.append("their images, splits or classes are not the same")
    if found:
        return [f"the values cannot be compared: {'; '.join(found)}"]
    a, b = one.answer, other.answer
    if a is None or b is None:
        return []
    lengths = one.study.full_epochs, other.study.full_epochs
    mixed = (
        f"{one.name} trains {lengths[0]} epochs a trial, {other.name} {lengths[1]}: part of the "
        "difference may be that"
    )
    return [_gain((one, a), (other, b)), *([mixed] if lengths[0] != lengths[1] else [])]


def _gain(*pair: tuple[Side, Answer]) -> str:
    """The difference of two answers, and whether it is more than noise."""
    (one, a), (other, b) = pair
    said = f"{other.name} less {one.name}: {b.value - a.value:+.4f}"
    unsure = [side.name for side in (one, other) if not _noise(side)[1]]
    if unsure:
        return (
            f"{said}. Nobody knows yet whether that is more than noise: confirm the best ones on "
            f"fresh seeds, {', '.join(f'segtune confirm {name}' for name in unsure)}"
        )
    half = _half(_noise(one), _noise(other))
    what = "a difference" if abs(b.value - a.value) > half else "no more than noise"
    return f"{said} +- {half:.4f} ({CONFIDENCE:.0%} interval over seeds): {what}"


def _noise(side: Side) -> tuple[float, int]:
    """(Variance of what the study answers, over seeds; degrees of freedom: 0 where unknown)."""
    winner = None if side.answer is None else side.answer.confirmed
    if side.answer is None or winner is None:
        return 0.0, 0
    variance, freedom = side.answer.evidence.noise
    return variance / len(winner.runs), freedom


def _half(one: tuple[float, int], other: tuple[float, int]) -> float:
    """Half the width of a difference's interval (Welch 1947)."""
    variance = one[0] + other[0]
    if variance == 0:
        return 0.0
    freedom = variance**2 / sum(v**2 / n for v, n in (one, other))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance))


def _total(side: Side, fact: Callable[[TrialFacts], float | None]) -> float:
    return sum(fact(TrialFacts.of(trial)) or 0 for trial in side.ended)


_TOTALS: dict[str, Callable[[Side], Any]] = {
    "trials ended": lambda side: f"{len(side.ended)} of {sum(side.study.slots.counts().values())}",
    "epochs trained": lambda side: int(_total(side, lambda facts: facts.epochs)),
    "time of the trials": lambda side: clock(_total(side, lambda facts: facts.seconds)),
    "best trial": lambda side: None if side.answer is None else side.answer.trial.number,
}


def _section(
    title: str, sides: tuple[Side, Side], one: Mapping[str, Any], other: Mapping[str, Any]
) -> list[Block]:
    """A table of what is not the same in both; `-` where one of them has no such setting."""
    known = list(dict.fromkeys([*one, *other]))
    shown = {name: tuple(_value(side, name) for side in (one, other)) for name in known}
    rows = [(name, *values) for name, values in shown.items() if values[0] != values[1]]
    if not rows:
        return [Heading(title), Text("nothing")]
    return [Heading(title), Table(("setting", *(side.name for side in sides)), rows)]


def _value(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name, "-")
    return "null" if value is None else cell(value)


def _settings(side: Side) -> Mapping[str, Any]:
    """The settings of its best trial that count there, those first that matter most."""
    if side.config is None:
        return {}
    flat, space = side.config.flat(), side.study.space
    return {name: flat[name] for name in first_settings(flat) if space.active(name, flat)}


def _space(space: Space) -> dict[str, str]:
    """{setting: its values and its condition, or its one value} of all settings."""
    found = {}
    for name, value in space.base.flat().items():
        dim = space.dims.get(name)
        condition = ", ".join(
            f"{other} is {' or '.join(map(cell, values))}"
            for other, values in space.when.get(name, {}).items()
        )
        text = _value({name: value}, name) if dim is None else dimension_text(dim)
        found[name] = f"{text} (where {condition})" if dim and condition else text
    return found


def _study(side: Side) -> dict[str, Any]:
    """{key of the study file: value} of what shapes its trials, apart from their space."""
    tree = json.loads(side.study.spec.to_json())
    return _flat({key: value for key, value in tree.items() if key not in ALONE})


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _curves(sides: tuple[Side, Side]) -> list[Block]:
    """How soon each was as good as it is: over its trials, and over its best trial's epochs."""
    searched = [
        (count, *(value for side in sides for value in _at(side.best_so_far, count, (None, None))))
        for count in _points(max(len(side.ended) for side in sides))
    ]
    epochs = [
        (epoch, *(_at(side.curve, epoch, None) for side in sides))
        for epoch in _points(max(len(side.curve) for side in sides))
    ]
    columns = [f"{side.name}, {what}" for side in sides for what in ("epochs", "best")]
    trials = [f"{s.name}, trial {s.answer.trial.number}" if s.answer else s.name for s in sides]
    found: list[Block] = []
    if searched:
        found += [
            Heading("Best so far, after so many trials have ended"),
            Table(("trials", *columns), searched),
            *graph("best-so-far", _drawn(sides)),
        ]
    if epochs:
        found += [
            Heading("Each best trial's epochs, in the search"),
            Table(("epoch", *trials), epochs),
        ]
    return found


def _points(last: int) -> list[int]:
    """1, 2, 5, 10, 20 .. and the last one."""
    scales = (10**power for power in range(len(str(last))))
    return [n for scale in scales for n in (step * scale for step in AT) if n < last] + (
        [last] if last else []
    )


def _at(values: Sequence[Any], count: int, missing: Any) -> Any:
    """The value of that number, from 1; `missing` behind the last one."""
    return values[count - 1] if count <= len(values) else missing


def _drawn(sides: tuple[Side, Side]) -> go.Figure:
    """Best value so far over the epochs trained."""
    figure = go.Figure()
    for side, colour in zip(sides, COLOURS, strict=False):
        steps = [(epochs, best) for epochs, best in side.best_so_far if best is not None]
        figure.add_scatter(
            x=[epochs for epochs, _ in steps],
            y=[best for _, best in steps],
            mode="lines+markers",
            line={"shape": "hv", "color": colour},
            name=label(side.name),
            hovertemplate=f"{plain(side.name)}: %{{y:.4f}} after %{{x}} epochs<extra></extra>",
        )
    return titled(figure, "Best so far", "epochs trained", sides[0].study.metric)
