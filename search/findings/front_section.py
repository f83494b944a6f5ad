"""The section of a report about what is good and cheap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from search.findings.facts import Facts
from search.findings.fronts import (
    COSTS,
    NEAR,
    comparable,
    cost_of,
    fastest_within,
    front,
    measured_on,
)
from search.findings.graph_style import COLOURS, titled
from search.findings.markup import Block, Heading, Row, Table, Text, literal
from search.findings.page import graph
from search.studies.trial_facts import TrialFacts
from spaces.limits import shown_count

MOST_POINTS = 1000  # of a graph: the best ones
HEIGHT = 320  # pixels of a graph
WIDE = 8.0  # a cost of which the largest is so many times the smallest has an axis of logarithms


def fronts(facts: Facts, *, graphs: bool) -> list[Block]:
    """The fronts as a table, and as graphs; empty where no cost is known."""
    ranking, metric, study = facts.ranking, facts.study.metric, facts.study.spec.name
    found = {name: front(ranking, name) for name in COSTS}
    if not any(found.values()):
        return []
    members = {trial.number: trial for trials in found.values() for trial in trials}
    rows = [_row(facts, trial, found) for trial in ranking if trial.number in members]
    columns = (f"{metric}, one seed", "latency, ms", "parameters", "on the front of", "network")
    said = ["Each of these is cheaper than every better trial."]
    if found["latency_ms"]:
        best = found["latency_ms"][-1]
        fast = fastest_within(ranking, NEAR, study)
        said.append(
            f"Latency: one image at a time on {measured_on(best)}, from the resized image to the "
            f"network's answer. The fastest within {NEAR:g} of the best is trial {fast.number}: "
            f"`segtune export {study} --fastest-within {NEAR:g} --to fast/`."
        )
    blocks: list[Block] = [
        Heading("Good and cheap", 3),
        Text(" ".join(said)),
        Table(("trial", *columns), rows),
    ]
    if graphs:
        drawn = {name: front_graph(ranking, name, metric) for name in COSTS}
        parts = [graph(f"front-{name}", drawn[name], HEIGHT)[0] for name in COSTS if drawn[name]]
        blocks += [Row(parts)] if parts else []
    return blocks


def front_graph(ranking: Sequence[FrozenTrial], name: str, metric: str) -> go.Figure | None:
    """The metric against a cost, its front as a line; None of fewer than two trials."""
    trials = comparable(ranking, name)[:MOST_POINTS]
    if len(trials) < 2:
        return None
    best = front(ranking, name)
    figure = go.Figure()
    figure.add_scatter(
        **_points(trials, name),
        mode="markers",
        marker={"color": COLOURS[0], "size": 7, "opacity": 0.5},
        name="trials",
    )
    figure.add_scatter(
        **_points(best, name),
        mode="lines+markers",
        line={"color": COLOURS[1], "width": 1.5, "shape": "hv"},
        marker={"color": COLOURS[1], "size": 10, "symbol": "diamond"},
        name="front",
    )
    titled(figure, f"{metric} against {name.removesuffix('_ms')}", COSTS[name], metric)
    costs = [cost_of(trial, name) or 0.0 for trial in trials]
    if min(costs) > 0 and max(costs) > WIDE * min(costs):
        figure.update_xaxes(type="log")
    return figure


def _points(trials: Sequence[FrozenTrial], name: str) -> dict[str, Any]:
    shown = [f"{trial.value:.4f}" for trial in trials]
    return {
        "x": [cost_of(trial, name) for trial in trials],
        "y": [float(value) for value in shown],
        "text": [f"trial {trial.number}: {v}" for trial, v in zip(trials, shown, strict=True)],
        "hovertemplate": f"%{{text}}<br>{COSTS[name]} %{{x:.3g}}<extra></extra>",
    }


def _row(
    facts: Facts, trial: FrozenTrial, found: Mapping[str, Sequence[FrozenTrial]]
) -> tuple[Any, ...]:
    known, settings = TrialFacts.of(trial), facts.settings(trial)
    names = ("model.arch", "model.encoder", "model.decoder")
    network = "/".join(str(settings[name]) for name in names if name in settings)
    among = [name.removesuffix("_ms") for name, trials in found.items() if trial in trials]
    return (
        trial.number,
        f"{trial.value:.4f}",
        None if known.latency_ms is None else f"{known.latency_ms:.3g}",
        None if known.parameters is None else shown_count(known.parameters),
        ", ".join(among),
        literal(f"{network} at {settings['data.resolution']}"),
    )
