"""What each setting explains, and how far chance reaches, as a drawing.

As the curves it is made on the server and holds no style; what it shows, its text says too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.findings.facts import Facts
from search.findings.importances import CONFIDENCE, MIN_TRIALS, Share

WIDTH, ROW = 360, 40  # of the drawing and of a bar's part of it, in units of its own
MOST_BARS = 10


@dataclass(frozen=True)
class Bar:
    """A setting's bar.

    Attributes:
        label: its figures.
        said: what it shows, for who points at it.
        length, chance: of the bar, and of the band that chance reaches.
    """

    setting: str
    named: bool
    label: str
    said: str
    y: int
    length: float
    chance: float


@dataclass(frozen=True)
class Bars:
    """The drawing.

    Attributes:
        said: what it shows, for who does not see it; where there are no bars, what is missing.
        caption: over which trials, and what is left out.
    """

    said: str
    bars: Sequence[Bar] = ()
    caption: str = ""
    width: int = WIDTH

    @property
    def height(self) -> int:
        return ROW * len(self.bars)


def importance_bars(facts: Facts) -> Bars:
    """Draw what each setting explains, the largest first."""
    count = len(facts.complete)
    if count < MIN_TRIALS:
        return Bars(
            f"It takes {MIN_TRIALS} trials that have ended by themselves, without a rule, a limit "
            f"or an alarm; there {'is 1' if count == 1 else f'are {count}'}."
        )
    if not facts.shares:
        return Bars(f"No setting varies over {MIN_TRIALS} trials that have ended by themselves.")
    shown = sorted(facts.shares, key=lambda one: not one.named)[:MOST_BARS]
    shown.sort(key=lambda one: -one.share)
    scale = (WIDTH - 1) / max(0.01, *(max(one.share, one.chance) for one in shown))
    bars = [
        Bar(
            one.setting,
            one.named,
            ", chance up to ".join(_figures(one)),
            _said(one),
            ROW * place,
            round(scale * one.share, 1),
            round(scale * one.chance, 1),
        )
        for place, one in enumerate(shown)
    ]
    named = [_said(one) for one in shown if one.named]
    others = [_said(one) for one in shown if not one.named]
    parts = [
        "Share of the differences in rank that each setting explains.",
        f"More than chance: {'; '.join(named) or 'none'}.",
        f"No more than chance: {'; '.join(others) or 'none'}.",
    ]
    return Bars(" ".join(parts), bars, _caption(facts, len(shown)))


def _said(one: Share) -> str:
    share, chance = _figures(one)
    return f"{one.setting} {share}, where chance reaches {chance}"


def _figures(one: Share) -> tuple[str, str]:
    """The share, as the note says it, and what chance reaches; closer where they look alike."""
    share, chance = f"{one.share:.0%}", f"{one.chance:.0%}"
    return (share, chance) if share != chance else (f"{one.share:.1%}", f"{one.chance:.1%}")


def _caption(facts: Facts, shown: int) -> str:
    """Over which trials, and what is not drawn."""
    left_out = len(facts.searched) - len(facts.shares)
    parts = [
        f"{shown} of the {len(facts.searched)} searched settings, over the {len(facts.complete)} "
        f"trials that ended by themselves. In {CONFIDENCE:.0%} of studies whose values were dealt "
        "out anew no setting leaves its band."
    ]
    if left_out:
        parts.append(
            f"Left out: {left_out} without variation over {MIN_TRIALS} of these trials, or chosen "
            "within each of them."
        )
    return " ".join(parts)
