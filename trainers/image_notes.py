"""What `check` says of images whose values may not be what they are taken for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainers.images import WHITE, Pixels, Seen

Images = Sequence[tuple[str, Seen]]
"""Path, and what was in it, of each image."""

DARK = {"8 bits": 16}
"""{depth: of nearly black images no value is above white divided by this}."""
DARK_OTHERS = 4  # as 14 bits are in files of 16
COMMON = (1, 15, 255, 1023, 4095, 16383, 65535)  # values of white


def image_notes(name: str, images: Images, pixels: Pixels) -> Iterator[str]:
    """Yield what was assumed of a split's images, and what of them is not read, a sentence each."""
    for depth in WHITE:
        same = [one for one in images if one[1].depth == depth]
        # where white was laid below, black says nothing
        own = [one for one in same if not (pixels.on_white and one[1].transparent)]
        yield from _dark(name, own, depth, pixels)
        yield from _outside(name, same, depth, pixels)
    clear = [path for path, seen in images if seen.transparent]
    if clear:
        how = "were laid on white" if pixels.on_white else "their colours there are read"
        yield (
            f"data.{name}: {len(clear)} of {len(images)} images are transparent in places, and "
            f"{how}; data.channels: 4 makes opacity a channel. The first is {clear[0]}"
        )
    more = [(path, seen) for path, seen in images if seen.unread]
    if more:
        first, seen = more[0]
        yield (
            f"data.{name}: {len(more)} of {len(images)} images have more channels than the "
            f"{seen.channels - seen.unread} that are read; data.channels: {seen.channels} reads "
            f"all of them. The first is {first}"
        )


def _dark(name: str, images: Images, depth: str, pixels: Pixels) -> Iterator[str]:
    """Whether images of one depth are nearly black, all together."""
    low, white = pixels.range or (0, WHITE[depth])
    high = max((seen.high for _, seen in images), default=white)
    if high - low > (white - low) / DARK.get(depth, DARK_OTHERS):
        return
    if pixels.range:
        taken = f"data.range says that {_plain(white)} is white"
    else:
        taken = f"{_plain(white)} is taken for white, as {depth} have it"
    likely = _plain(next((one for one in COMMON if one >= high), high))
    more = f"; if {likely} is white, write data.range: [{_plain(low)}, {likely}]"
    yield (
        f"warning: data.{name}: {len(images)} images are nearly black: their largest value is "
        f"{_plain(high)}, but {taken}{more if high > max(low, 0) else ''}. The first is "
        f"{images[0][0]}"
    )


def _outside(name: str, images: Images, depth: str, pixels: Pixels) -> Iterator[str]:
    """How many values were cut at the ends of the range."""
    cut = [(path, seen) for path, seen in images if seen.outside]
    if not cut:
        return
    share = sum(seen.outside for _, seen in cut) / sum(seen.values for _, seen in images)
    low, high = min(seen.low for _, seen in cut), max(seen.high for _, seen in cut)
    black, white = map(_plain, pixels.range or (0, WHITE[depth]))
    of = (
        f"data.range [{black}, {white}]"
        if pixels.range
        else f"the {black}..{white} that {depth} are taken for"
    )
    yield (
        f"data.{name}: {share:.2%} of all values lie outside of {of} and are cut there: those of "
        f"{len(cut)} of {len(images)} images go from {_plain(low)} to {_plain(high)}. The first is "
        f"{cut[0][0]}"
    )


def _plain(value: float) -> str:
    return f"{value:.6g}"
