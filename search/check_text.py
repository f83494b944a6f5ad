"""What `segtune check` says of text: how much there is, how small, and what targets decode to."""

from __future__ import annotations

import math
import time

from rich.console import Console
from rich.table import Table

from search.findings.wording import clock
from spaces.edges import edges
from spaces.space import Free, Space
from trainers.dbnet.decode import Output
from trainers.dbnet.perfect import perfect_scores
from trainers.dbnet.targets import MIN_SIDE
from trainers.text_data import TextData
from trainers.text_sizes import LOWEST_PAGE, network_size, split_text

LOW = 0.95  # Hmean of perfect targets below which a hint is given
UNCLIP, OUTPUT = "decode.unclip_ratio", "decode.output"
PASSES = ("decode.thresh", "decode.max_candidates")  # each value decodes or scores all maps anew


def say_text(space: Space, data: TextData, console: Console) -> None:
    """Print what there is in each split, at each resolution of the space."""
    for note in data.notes:
        _say(note, console)
    resolutions = sorted(space.values("data.resolution"))
    table = Table(title="text", title_justify="left")
    for column in ("split", "boxes", "don't-care"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for resolution in resolutions:
        table.add_column(f"under {MIN_SIDE:g} px at {resolution}", justify="right")
    said = []
    for name in sorted(set(data.splits) - ({"val"} if data.folds else set())):
        text = split_text(data, name, resolutions)
        if text.curved and space.values(OUTPUT) == ["quad"]:
            said.append(
                f"warning: data.{name}: {text.curved} of {text.boxes - text.dont_care} texts have "
                "more than 4 corners, and boxes of 4 are held against them; for curved text write "
                "decode.output: polygon"
            )
        shares = [f"{text.small_share(resolution):.0%}" for resolution in resolutions]
        table.add_row(name, str(text.boxes), str(text.dont_care), *shares)
        for resolution, strips in text.strips.items():
            if strips:
                height, width = data.sizes[strips[0].image]
                h, w = network_size(data, strips[0], resolution)
                said.append(
                    f"warning: data.{name}: {len(strips)} pages are lower or narrower than "
                    f"{LOWEST_PAGE} pixels at data.resolution {resolution}: {strips[0].image} of "
                    f"{width}x{height} becomes {w}x{h}; cut such strips into parts"
                )
    console.print(table)
    _say(
        f"text under {MIN_SIDE:g} px is masked in training, and counts in the score all the same; "
        "don't-care text counts in neither",
        console,
    )
    for line in said:
        _say(line, console)
    _perfect(space, data, console)


def _perfect(space: Space, data: TextData, console: Console) -> None:
    """What the target maps of val decode to, at each resolution and unclip ratio."""
    dim = space.dims.get(UNCLIP)
    ratios = dim.values() if isinstance(dim, Free) else space.values(UNCLIP)
    output: Output = "polygon" if "polygon" in space.values(OUTPUT) else "quad"
    table = Table(title="Hmean that perfect targets of val decode to", title_justify="left")
    table.add_column("data.resolution", justify="right")
    for index, ratio in enumerate(ratios):
        table.add_column(f"{'unclip ' if not index else ''}{ratio:g}", justify="right")
    said, seconds = [], 0.0
    for resolution in sorted(space.values("data.resolution")):
        pages = ((data.sizes[page.image], data.truth(page)) for page in data.split("val"))
        began = time.perf_counter()
        hmeans = [
            scores.hmean for scores in perfect_scores(pages, resolution, ratios, output=output)
        ]
        seconds = time.perf_counter() - began  # in the end that of the largest resolution
        table.add_row(str(resolution), *(f"{hmean:.3f}" for hmean in hmeans))
        best = max(hmeans)
        if best < LOW:
            said.append(
                f"text is small at data.resolution {resolution}: perfect targets decode to "
                f"{best:.3f} there. Models can score higher, as they may draw larger kernels than "
                "they are taught; a larger data.resolution makes text larger"
            )
        alone = Space({UNCLIP: dim} if dim is not None else {}, {}, space.base)
        ends = edges(alone, {UNCLIP: ratios[hmeans.index(best)]})
        for edge in ends if min(hmeans) < best else []:
            said.append(
                f"at data.resolution {resolution} perfect targets decode best at {edge}, an end "
                "of its range"
            )
    console.print(table)
    for line in said:
        _say(line, console)
    if (cost := _sweeping(space, seconds)) is not None:
        _say(cost, console)


def _sweeping(space: Space, seconds: float) -> str | None:
    """How many decode settings are tried after every epoch, and how long that takes.

    Args:
        seconds: of one pass over the maps of val, at the largest resolution.
    """
    if not space.free() or space.base.metric.name == "cleval":  # its cost: docs/study-file.md
        return None
    counts = {name: len(dim.values()) for name, dim in space.free().items()}
    passes = math.prod(count for name, count in counts.items() if name in PASSES)
    named = " x ".join(f"{count} {name}" for name, count in counts.items())
    return (
        f"after every epoch val is decoded with {math.prod(counts.values())} settings ({named}): "
        f"about {clock(passes * seconds)} here, without the network"
    )


def _say(line: str, console: Console) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
