"""Settings of decoding beside none, on val: which gain beyond noise, and what an export keeps.

Several are tried on one split, and the best of several lies above 0 by chance more often than one
does. So the intervals are Bonferroni's: all of them hold at once, at CONFIDENCE.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from search.findings.evidence import CONFIDENCE, Difference, ScoreOf, difference_on
from search.findings.manifest import CONFIG, replace_files
from spaces.errors import InputError, did_you_mean
from spaces.yamlfile import dump_yaml, read_yaml
from trainers.gains import Part, Tried, try_postprocessing, try_views
from trainers.image_counts import Counts
from trainers.tasks import score_model

SPLIT = "val"  # the only one that may choose
CHOSEN = "decode_chosen"  # of provenance.json: what was put into config.yaml since the export
SHOWN = 6  # rows of the best settings, and of the worst


@dataclass(frozen=True, eq=False)
class Gains:
    """What settings come to beside none.

    Attributes:
        metric, score: the study's, its name and as a function of counts summed over images.
        base: none of them.
        tried: the others.
    """

    metric: str
    score: ScoreOf
    base: Tried
    tried: Sequence[Tried]

    @property
    def images(self) -> int:
        return len(self.base.counts)

    def value(self, counts: Counts) -> float:
        return float(self.score(counts.sum(0)))

    def gain(self, counts: Counts) -> Difference | None:
        """Over none; None where it is of a single image, which says nothing of others.

        Student's t has as many degrees of freedom as there are images with another result: what
        changes five images is known as well as five images tell it, however large the split is.
        """
        varying = int((counts != self.base.counts).any(axis=(1, 2)).sum())
        if varying < 2:
            return None
        tried = max(1, len(self.tried))
        base = self.base.counts
        return difference_on(self.score, [counts], [base], tried=tried, varying=varying)

    @cached_property
    def beyond_noise(self) -> list[Tried]:
        """Those whose interval lies above 0, the largest gain first."""
        gains = [(gain, one) for one in self.tried if (gain := self.gain(one.counts))]
        above = [(gain, one) for gain, one in gains if gain.above]
        return [one for gain, one in sorted(above, key=lambda pair: -pair[0].mean)]

    def figures(self, counts: Counts) -> dict[str, Any]:
        """For provenance.json: the value, the gain, and the ends of its interval."""
        facts: dict[str, Any] = {"metric": self.metric, "value": self.value(counts)}
        if counts is not self.base.counts and (gain := self.gain(counts)) is not None:
            low, high = gain.mean - gain.half, gain.mean + gain.half
            facts |= {"gain": gain.mean, "interval": [low, high]}
        return {**facts, "images": self.images, "tried": len(self.tried)}


@dataclass(frozen=True)
class Choice:
    """The settings of decoding that val chooses, {dotted name: value}, and the figures of it."""

    changes: dict[str, Any]
    figures: dict[str, Any]


def asked_names(option: str, asked: str, known: Sequence[str]) -> list[str]:
    """`all`, or some of the known names behind commas.

    Raises:
        InputError: a name that there is none of.
    """
    names = list(known) if asked == "all" else [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, ["all", *known]) or f"; known: all, {', '.join(known)}"
            raise InputError(f"{option} {asked}: unknown {name!r}{hint}")
    return names


def choose_views(
    parts: Sequence[Part], metric: str, score: ScoreOf, values: Sequence[str], console: Console
) -> Choice:
    """Print what values of `decode.tta` come to; choose the largest gain beyond noise, or none."""
    base, *tried = try_views(parts, SPLIT, values)
    gains = Gains(metric, score, base, tried)
    table = _table(gains, "decode.tta", "images/s")
    for one in (base, *tried):
        assert one.seconds
        value = one.changes.get("decode.tta", "none")
        table.add_row(value, *_columns(gains, one), f"{gains.images / one.seconds:.1f}")
    console.print(table)
    _say_intervals(gains, console)
    best = gains.beyond_noise[0] if gains.beyond_noise else base
    if best is base:
        console.print("within noise: none")
    else:
        assert best.seconds and base.seconds
        times = best.seconds / base.seconds
        chosen = best.changes["decode.tta"]
        console.print(f"beyond noise: keep {chosen}, for {times:.1f} times the time")
    return Choice({"decode.tta": "none"} | best.changes, gains.figures(best.counts))


def choose_postprocessing(
    parts: Sequence[Part], metric: str, score: ScoreOf, kinds: Sequence[str], console: Console
) -> Choice:
    """Print what post-processing comes to; choose what gains beyond noise, or none.

    Of each kind and class that is its best size; all of them together have to gain beyond noise.
    """
    base, *tried = try_postprocessing(parts, SPLIT, kinds)
    gains = Gains(metric, score, base, tried)
    ranked = sorted(tried, key=lambda one: -gains.value(one.counts))
    shown = ranked if len(ranked) <= 2 * SHOWN else ranked[:SHOWN] + ranked[-SHOWN:]
    table = _table(gains, "setting")
    for one in (base, *shown):
        table.add_row(_words(one.changes), *_columns(gains, one))
    console.print(table)
    if len(shown) < len(ranked):
        console.print(f"the {SHOWN} best and the {SHOWN} worst of {len(ranked)} settings")
    _say_intervals(gains, console)
    off: dict[str, Any] = {f"decode.{kind}": {} for kind in kinds}
    chosen = dict(off)
    for one in gains.beyond_noise:
        for kind, of_class in one.changes.items():
            chosen[kind] = of_class | chosen[kind]  # a class's best size came first
    together = base.counts if chosen == off else _together(parts, chosen)
    gain = gains.gain(together)
    if gain is None or not gain.above:
        console.print("within noise: none")
        return Choice(off, gains.figures(base.counts))
    value, words = gains.value(together), _words(chosen)
    console.print(f"beyond noise: keep {words}; {metric} {value:.4f}, {_signed(gain)}")
    return Choice(chosen, gains.figures(together))


def keep(folder: Path, choice: Choice) -> str:
    """Put chosen settings into an export's config.yaml, and their figures into provenance.json.

    Returns:
        A sentence of what was written.

    Raises:
        InputError: models of folds have a setting each of their own.
    """
    config = folder / CONFIG
    tree = read_yaml(config).data
    decode = tree["trial"].setdefault("decode", {})
    texts = {}
    path = folder / "provenance.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    own = {name for fold in (facts or {}).get("fold_decode") or () for name in fold}
    for name, value in choice.changes.items():
        if name in own:
            raise InputError(f"--keep: the model of each fold has a {name} of its own")
        decode[name.removeprefix("decode.")] = value
    texts[CONFIG] = dump_yaml(tree)
    if facts is not None:
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {"settings": choice.changes, **choice.figures, "when": when}
        texts[path.name] = json.dumps({**facts, CHOSEN: [*facts.get(CHOSEN, ()), entry]}, indent=2)
        texts[path.name] += "\n"
    replace_files(folder, texts)
    return f"wrote {_words(choice.changes)} into {config}"


def value_on_val(facts: Mapping[str, Any]) -> float:
    """What provenance.json says of val: as exported, or with what was chosen since."""
    value: float = [facts, *facts.get(CHOSEN, ())][-1]["value"]
    return value


def _together(parts: Sequence[Part], changes: Mapping[str, Any]) -> Counts:
    """(N, K, 3) of the images of all parts, with these settings."""
    configs = [part.config.replace(dict(changes)) for part in parts]
    scored = [
        score_model(part.model, config, part.data, SPLIT)
        for part, config in zip(parts, configs, strict=True)
    ]
    return np.concatenate([one.images.counts for one in scored])


def _table(gains: Gains, setting: str, *more: str) -> Table:
    table = Table(title=f"{SPLIT}, {gains.images} images", title_justify="left")
    table.add_column(setting, no_wrap=True)
    for column in (gains.metric, "over none", f"{CONFIDENCE:.0%} interval", *more):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _columns(gains: Gains, one: Tried) -> tuple[str, str, str]:
    value = gains.value(one.counts)
    if one is gains.base:
        return f"{value:.4f}", "", ""
    gain = gains.gain(one.counts)
    interval = "of one image" if gain is None else _interval(gain)
    return f"{value:.4f}", f"{value - gains.value(gains.base.counts):+.4f}", interval


def _interval(gain: Difference) -> str:
    return f"{gain.mean - gain.half:+.4f} to {gain.mean + gain.half:+.4f}"


def _signed(gain: Difference) -> str:
    return f"{gain.mean:+.4f} ({_interval(gain)})"


def _say_intervals(gains: Gains, console: Console) -> None:
    if len(gains.tried) > 1:
        each = 1 - (1 - CONFIDENCE) / len(gains.tried)
        console.print(
            f"{len(gains.tried)} settings were tried on these images: each interval is one of "
            f"{each:.2%}, so that all hold at {CONFIDENCE:.0%}",
            highlight=False,
        )


def _words(changes: Mapping[str, Any]) -> str:
    """`smallest_area of car 17, fill_holes of road 52`; `none`."""
    parts = []
    for name, value in changes.items():
        short = name.removeprefix("decode.")
        if isinstance(value, dict):
            parts += [f"{short} of {of} {pixels}" for of, pixels in value.items()]
        else:
            parts.append(f"{short} {value}")
    return ", ".join(parts) or "none"
