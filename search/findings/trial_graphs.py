"""Interactive graphs of a study, for the dashboard and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from search.findings.facts import TOP, Facts, seconds
from search.findings.graph_style import COLOURS, label, noted, plain, styles, titled, whole_steps
from search.findings.wording import first_settings, short
from search.studies.reasons import reason
from search.studies.trial_facts import TrialFacts
from spaces.space import parameter_path

T = TypeVar("T")

MOST_TRIALS = 200  # in a graph with a line or several points a trial: the best and the latest
MOST_POINTS = 60  # of a line
MOST_BOX_POINTS = 6000  # beside all boxes together
LINES = {  # of each part: its dashes, and what it is
    "total": ("solid", "full line total"),
    "pixel": ("dot", "dots pixel loss"),
    "region": ("dash", "dashes region loss"),
    "threshold": ("dash", "dashes threshold map"),
    "dice": ("dashdot", "dash and dot Dice loss"),
}
FEW_CLASSES = 8  # whose names may stand upright


def study_figures(facts: Facts) -> dict[str, go.Figure]:
    """Return {id: graph} of all graphs that the study has something for."""
    drawn = {name: draw(facts) for name, draw in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def early_stopping(facts: Facts) -> go.Figure | None:
    """Every trial's metric by epoch, where and why it ended, and what it was held against."""
    with_epochs = [trial for trial in facts.ended if trial.intermediate_values]
    trials = _some(with_epochs, facts)
    if not trials:
        return None
    figure = go.Figure()
    style = styles([reason(trial) for trial in trials])
    for trial in trials:
        epochs, values = _line(trial)
        colour, symbol = style[reason(trial)]
        figure.add_scatter(
            x=epochs,
            y=values,
            mode="lines+markers",
            line={"color": colour, "width": 1},
            opacity=0.7,
            marker={"size": [0] * (len(epochs) - 1) + [8], "symbol": symbol, "line": {"width": 0}},
            hovertemplate=f"trial {trial.number}, {reason(trial)}<br>epoch %{{x}}: %{{y:.4f}}"
            "<extra></extra>",
            legendgroup=reason(trial),
            showlegend=False,
        )
    _legend(figure, style)
    held = [(t, bar) for t in trials if (bar := TrialFacts.of(t).bar) is not None]
    if held:
        figure.add_scatter(
            x=[max(trial.intermediate_values) for trial, _ in held],
            y=[bar for _, bar in held],
            mode="markers",
            marker={"symbol": "line-ew", "size": 12, "line": {"width": 2, "color": "#222"}},
            name="bar at its end",
            hovertemplate="held against %{y:.4f}<extra></extra>",
        )
    whole_steps(figure, max(max(trial.intermediate_values) for trial in trials))
    return titled(
        figure,
        noted("Early stopping: every trial's curve and its end", trials, with_epochs),
        "epoch",
        f"val {facts.study.metric}",
    )


def cost(facts: Facts) -> go.Figure | None:
    """Value against the seconds that it cost."""
    if not facts.ranking:
        return None
    figure = go.Figure()
    shown = _some(facts.ranking, facts)
    style = styles([reason(trial) for trial in shown])
    for name, (colour, symbol) in style.items():
        trials = [trial for trial in shown if reason(trial) == name]
        figure.add_scatter(
            x=[seconds(trial) for trial in trials],
            y=[trial.value for trial in trials],
            text=[_settings(trial) for trial in trials],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.8},
            name=name,
            hovertemplate=f"%{{text}}<br>%{{x:.0f}} s, {facts.study.metric} %{{y:.4f}}"
            "<extra></extra>",
        )
    title = noted(f"{facts.study.metric} against cost", shown, facts.ranking)
    return titled(figure, title, "device seconds of the trial", facts.study.metric)


def per_class(facts: Facts) -> go.Figure | None:
    """IoU of each class across trials, the best trial marked."""
    names = [label(name) for name in facts.study.spec.data.class_names]
    with_classes = [t for t in facts.ranking if TrialFacts.of(t).per_class]
    if not names or not with_classes:
        return None
    trials = _some(with_classes, facts, min(MOST_TRIALS, MOST_BOX_POINTS // len(names)))
    figure = go.Figure()
    ious = [TrialFacts.of(trial).per_class or () for trial in trials]
    places = list(range(len(names)))  # two names may have the same label
    for index in places:
        figure.add_box(
            x0=index,
            y=[values[index] for values in ious],
            text=[f"trial {trial.number}" for trial in trials],
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            marker={"color": COLOURS[0], "size": 4, "opacity": 0.5},
            line={"width": 1},
            fillcolor="rgba(64,99,216,0.08)",
            hovertemplate="%{text}: %{y:.4f}<extra></extra>",
            showlegend=False,
        )
    chosen = trials.index(facts.best) if facts.best in trials else 0
    best = trials[chosen]
    figure.add_scatter(
        x=places,
        y=ious[chosen],
        mode="markers",
        marker={"color": COLOURS[1], "symbol": "diamond", "size": 11, "line": {"width": 1}},
        name=f"best trial ({best.number})",
        hovertemplate="best trial: %{y:.4f}<extra></extra>",
    )
    title = noted("IoU of each class across trials", trials, with_classes)
    figure.update_xaxes(tickvals=places, ticktext=names, showgrid=False, ticklabeloverflow="allow")
    if len(names) > FEW_CLASSES:
        figure.update_xaxes(tickangle=-45)
    return titled(figure, title, "", "val IoU")


def loss_parts(facts: Facts) -> go.Figure | None:
    """Train and validation loss parts of the best trials."""
    if not facts.histories:
        return None
    figure = go.Figure()
    for rank, (number, reports) in enumerate(facts.histories.items()):
        history = _every(reports)
        train = [report.train.parts() for report in history]
        val = [report.val.parts() for report in history]
        for part in [name for name in val[0] if name in LINES] if history else []:
            for split, losses, opacity in (("train", train, 0.4), ("val", val, 1.0)):
                figure.add_scatter(
                    x=[report.epoch for report in history],
                    y=[_rounded(parts.get(part)) for parts in losses],
                    mode="lines",
                    line={"color": COLOURS[rank], "dash": LINES[part][0], "width": 2},
                    opacity=opacity,
                    name=f"trial {number}",
                    legendgroup=str(number),
                    showlegend=(split, part) == ("val", "total"),
                    hovertemplate=f"trial {number}, {split} {part}<br>epoch %{{x}}: %{{y:.4f}}"
                    "<extra></extra>",
                )
    if not figure.data:
        return None
    whole_steps(figure, max(len(history) for history in facts.histories.values()))
    parts = {part for reports in facts.histories.values() for part in reports[0].val.parts()}
    legend = ", ".join(words for part, (_, words) in LINES.items() if part in parts)
    return titled(
        figure,
        f"Loss parts of the best trials<br><sub>{legend}; pale = training</sub>",
        "epoch",
        "loss",
    )


def thresholds(facts: Facts) -> go.Figure | None:
    """Hmean over box_thresh of the best text detectors, each at its best epoch."""
    figure, drawn = go.Figure(), 0
    for rank, trial in enumerate(facts.ranking[:TOP]):
        number, history = trial.number, facts.histories[trial.number]
        known = TrialFacts.of(trial)
        best = known.fold_epochs[0] if known.fold_epochs else known.best_epoch
        detection = history[best - 1].detection if best and best <= len(history) else None
        if detection is None:
            continue
        points, drawn = detection.curve, drawn + 1
        for score, dash, name in (
            ("hmean", "solid", "Hmean"),
            ("precision", "dot", "P"),
            ("recall", "dash", "R"),
        ):
            figure.add_scatter(
                x=[point.box_thresh for point in points],
                y=[getattr(point, score) for point in points],
                mode="lines+markers" if len(points) == 1 else "lines",
                line={"color": COLOURS[rank], "dash": dash, "width": 2},
                name=f"trial {number}",
                legendgroup=str(number),
                showlegend=score == "hmean",
                hovertemplate=f"trial {number}<br>box_thresh %{{x}}: {name} %{{y:.4f}}"
                "<extra></extra>",
            )
    if not drawn:
        return None
    title = "Precision, recall and Hmean over box_thresh<br><sub>full line Hmean, dots precision, "
    return titled(figure, f"{title}dashes recall; best epoch</sub>", "decode.box_thresh", "score")


def _some(
    trials: Sequence[FrozenTrial], facts: Facts, most: int = MOST_TRIALS
) -> list[FrozenTrial]:
    """All trials, best first, or where there are too many the best and the latest of them."""
    place = {trial.number: rank for rank, trial in enumerate(facts.ranking)}
    ordered = sorted(trials, key=lambda trial: place.get(trial.number, len(place)))
    if len(ordered) <= most:
        return ordered
    latest = sorted(ordered[most // 2 :], key=lambda trial: -trial.number)
    return [*ordered[: most // 2], *latest[: most // 2]]


def _line(trial: FrozenTrial) -> tuple[list[int], list[float]]:
    """Epochs and values, thinned out to MOST_POINTS."""
    kept = _every(sorted(trial.intermediate_values))
    return kept, [round(trial.intermediate_values[epoch], 5) for epoch in kept]


def _every(epochs: Sequence[T]) -> list[T]:
    """All epochs, or where there are too many every so-manieth; the last one stays."""
    return list(epochs[:: -(len(epochs) // MOST_POINTS + 1)][::-1])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _legend(figure: go.Figure, style: dict[str, tuple[str, str]]) -> None:
    for name, (colour, symbol) in style.items():
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="lines+markers",
            line={"color": colour},
            marker={"symbol": symbol, "size": 8},
            name=name,
            legendgroup=name,
        )


def _settings(trial: FrozenTrial) -> str:
    """A trial's parameters as lines of a hover text."""
    lines = [f"trial {trial.number}"]
    named = {parameter_path(name): value for name, value in trial.params.items()}
    for name in first_settings(named):
        lines.append(plain(f"{name} {short(named[name])}"))
    return "<br>".join(lines)


FIGURES = {
    "early-stopping": early_stopping,
    "value-against-cost": cost,
    "per-class-iou": per_class,
    "loss-parts": loss_parts,
    "box-thresh": thresholds,
}
