"""Graphs of a search as a whole: its history, what matters, each setting against the metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from search.findings.facts import Facts
from search.findings.graph_style import COLOURS, label, styles, titled, whole_steps
from search.findings.markup import cell
from search.studies.reasons import reason
from spaces.space import Choice, Float, Int

CIRCLE, HOLLOW = 0, 100  # Plotly's numbers: a thousand of their names would fill the page
MOST_MARKERS = 1000  # in one graph; every so-manieth trial where there are more
MOST_SLICES = 6
MOST_BARS = 12
MOST_TICKS = 6
PALE_TO_DARK = ((0.0, "#c9d6f5"), (1.0, "#1f3c9c"))  # the first trial to the last one


def study_landscape(facts: Facts) -> dict[str, go.Figure]:
    """Return {name: graph} of all of them that the study has something for."""
    drawn = {"history": history(facts), "importances": importances_graph(facts)}
    found = {name: figure for name, figure in drawn.items() if figure is not None}
    return found | {f"slice {name}": figure for name, figure in slices(facts).items()}


def history(facts: Facts) -> go.Figure | None:
    """Value by trial with its reason, and the best so far."""
    if not facts.ranking:
        return None
    figure = go.Figure()
    shown = thinned(facts.ranking)
    for name, (colour, symbol) in styles([reason(trial) for trial in shown]).items():
        trials = [trial for trial in shown if reason(trial) == name]
        figure.add_scatter(
            x=[trial.number for trial in trials],
            y=[_short(trial.value) for trial in trials],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 8, "opacity": 0.8},
            name=name,
            hovertemplate=f"trial %{{x}}, {name}: %{{y:.4f}}<extra></extra>",
        )
    steps = _best_so_far(facts.ranking)
    figure.add_scatter(
        x=[number for number, _ in steps],
        y=[_short(value) for _, value in steps],
        mode="lines",
        line={"shape": "hv", "color": "#222", "width": 1.5},
        name="best so far",
        hovertemplate="best by trial %{x}: %{y:.4f}<extra></extra>",
    )
    whole_steps(figure, steps[-1][0])
    title = f"{facts.study.metric} by trial"
    if len(shown) < len(facts.ranking):
        title += f"<br><sub>{len(shown)} of {len(facts.ranking)} trials, evenly by rank</sub>"
    return titled(figure, title, "trial", facts.study.metric)


def importances_graph(facts: Facts) -> go.Figure | None:
    """How much each setting explains that explains more than chance, the largest on top."""
    rows = [*facts.importances.items()][:MOST_BARS][::-1]
    if not rows:
        return None
    figure = go.Figure()
    figure.add_bar(
        x=[_short(share) for _, share in rows],
        y=[name for name, _ in rows],
        orientation="h",
        marker={"color": COLOURS[0]},
        text=[f"{share:.0%}" for _, share in rows],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    titled(figure, "Share of the differences in rank that a setting explains", "", "")
    # room for the longest bar's own label
    figure.update_xaxes(tickformat=".0%", range=(0, 1.15 * max(share for _, share in rows)))
    return figure.update_layout(height=90 + 26 * len(rows), bargap=0.35)


def slices(facts: Facts) -> dict[str, go.Figure]:
    """Return {setting: graph of the metric against it} of the settings that matter most."""
    found: dict[str, go.Figure] = {}
    for name in facts.by_importance:
        if len(found) == MOST_SLICES:
            break
        if (figure := _slice(name, facts)) is not None:
            found[name] = figure
    return found


def thinned(ranking: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    """All trials of a ranking, or where there are too many every so-manieth, the best first."""
    return ranking[:: -(-len(ranking) // MOST_MARKERS)]


def _slice(setting: str, facts: Facts) -> go.Figure | None:
    """The metric against one setting, over the trials that it counts in; darker is later.

    Trials that were stopped are hollow.
    """
    dim = facts.study.space.dims[setting]
    settings = [(trial, facts.searched_settings(trial)) for trial in thinned(facts.ranking)]
    known = [(trial, values[setting]) for trial, values in settings if setting in values]
    if len(known) < 2:
        return None
    trials = [trial for trial, _ in known]
    if isinstance(dim, Choice):
        places = [dim.choices.index(value) + _jitter(trial) for trial, value in known]
        ticks = [label(cell(choice)) for choice in dim.choices]
        axis: dict[str, Any] = {"tickvals": [*range(len(ticks))], "ticktext": ticks}
        axis["ticklabeloverflow"] = "allow"
    else:
        places = [float(f"{value:.6g}") for _, value in known]
        axis = {"nticks": MOST_TICKS}
        if isinstance(dim, Float | Int) and dim.log:
            at = _log_ticks(dim.low, dim.high)
            axis = {"type": "log", "tickvals": at, "ticktext": [f"{tick:g}" for tick in at]}
    figure = go.Figure()
    figure.add_scatter(
        x=places,
        y=[_short(trial.value) for trial in trials],
        mode="markers",
        marker={
            "color": [trial.number for trial in trials],
            "colorscale": PALE_TO_DARK,
            "symbol": [CIRCLE if t.state == TrialState.COMPLETE else HOLLOW for t in trials],
            "size": 7,
            "opacity": 0.85,
        },
        hovertemplate="trial %{marker.color}: %{y:.4f}<extra></extra>",
        showlegend=False,
    )
    for place, trial in zip(places, trials, strict=True):
        if facts.best is not None and trial.number == facts.best.number:
            figure.add_scatter(
                x=[place],
                y=[_short(trial.value)],
                mode="markers",
                marker={"color": COLOURS[1], "symbol": "diamond", "size": 12, "line": {"width": 1}},
                hovertemplate=f"the best, trial {trial.number}: %{{y:.4f}}<extra></extra>",
                showlegend=False,
            )
    titled(figure, "", setting, facts.study.metric).update_xaxes(**axis)
    if isinstance(dim, Int) and not dim.log:
        whole_steps(figure, dim.high - dim.low)
    return figure


def _jitter(trial: FrozenTrial) -> float:
    """Spread trials of one choice, evenly and each time alike: multiples of the golden ratio."""
    return round((trial.number * 0.618034) % 1.0 * 0.6 - 0.3, 3)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in a range, or where there are few of them 1, 2 and 5 times each."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
        ticks = [tick for tick in ticks if 0.99 * low <= tick <= 1.01 * high]
        if len(ticks) >= 3:
            break
    return ticks[:: -(-len(ticks) // MOST_TICKS)]


def _best_so_far(ranking: Sequence[FrozenTrial]) -> list[tuple[int, float]]:
    """(trial number, value) wherever the best value rose, and at the last trial."""
    steps: list[tuple[int, float]] = []
    for trial in sorted(ranking, key=lambda trial: trial.number):
        assert trial.value is not None
        if not steps or trial.value > steps[-1][1]:
            steps.append((trial.number, trial.value))
    return [*steps, (max(trial.number for trial in ranking), steps[-1][1])]


def _short(value: float | None) -> float:
    """Five decimals: what a graph can show."""
    assert value is not None
    return round(value, 5)
