"""Colours, blur, noise and JPEG are torchvision's, of a batch on the device and of a page alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from trainers import photometric as module
from trainers.draws import Uniform
from trainers.photometric import (
    PHOTOMETRIC,
    Changes,
    Ranges,
    change,
    change_page,
    draw_changes,
    of_channels,
)

SIZE = (40, 56)  # no multiple of 16: JPEG's blocks reach beyond the border
COUNT = 20
NOTHING = draw_changes(Uniform(0, 0, range(COUNT)), Ranges())
Make = Callable[[Tensor, Changes], Tensor]


def images(count: int = COUNT) -> Tensor:
    """(N, 3, H, W) uint8: colour ramps, far from 0 and 255, with a bright box."""
    y, x = torch.meshgrid(
        torch.linspace(0, 1, SIZE[0]), torch.linspace(0, 1, SIZE[1]), indexing="ij"
    )
    image = torch.stack([100 + 40 * x, 110 + 30 * y, 120 + 20 * x * y])
    image[:, 8:20, 5:25] += 40
    return image.round().to(torch.uint8).repeat(count, 1, 1, 1)


def batch(pixels: Tensor, changes: Changes) -> Tensor:
    return change(pixels.float().contiguous(), changes)


def pages(pixels: Tensor, changes: Changes) -> Tensor:
    """The same, each image alone on the host, as pages of text are."""
    changed = [
        change_page(image.permute(1, 2, 0).contiguous().numpy(), changes.part(i, i + 1))
        for i, image in enumerate(pixels)
    ]
    assert all(page.dtype == np.uint8 for page in changed)
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).float()


BOTH = pytest.mark.parametrize(("make", "rounding"), [(batch, 0.0), (pages, 1.0)])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, np.ndarray]]:
    """(low, high, numbers) of each range that is drawn from."""
    calls: list[tuple[float, float, np.ndarray]] = []
    original = Uniform.between

    def spy(self: Uniform, low: float, high: float) -> np.ndarray:
        values = original(self, low, high)
        calls.append((low, high, values))
        return values

    monkeypatch.setattr(Uniform, "between", spy)
    return calls


def drawn(ranges: Ranges, count: int = COUNT) -> Changes:
    return draw_changes(Uniform(1, 2, range(count)), ranges)


@BOTH
@pytest.mark.parametrize(
    ("ranges", "tolerance"),
    [
        (Ranges(brightness=0.2), 0.01),
        (Ranges(contrast=0.2), 0.6),  # torchvision rounds the mean of a uint8 image
        (Ranges(saturation=0.3), 0.01),
        (Ranges(hue=0.05), 8.0),  # turned in YIQ here, in HSV there
        (Ranges(grey=1.0), 0.1),
    ],
    ids=["brightness", "contrast", "saturation", "hue", "grey"],
)
def test_colours_are_torchvisions(
    ranges: Ranges, tolerance: float, make: Make, rounding: float, seen: list[Any]
) -> None:
    """One change alone, with its factor read from the draws; nothing is clipped."""
    changed = make(images(), drawn(ranges))
    width = ranges.brightness or ranges.contrast or ranges.saturation
    if ranges.grey:
        factors = [0.0] * COUNT
    elif ranges.hue:
        [factors] = [v for low, high, v in seen if (low, high) == (-ranges.hue, ranges.hue)]
    else:
        [factors] = [v for low, high, v in seen if (low, high) == (1 - width, 1 + width)]
    functions = {
        "brightness": tv.adjust_brightness,
        "contrast": tv.adjust_contrast,
        "saturation": tv.adjust_saturation,
        "hue": tv.adjust_hue,
        "grey": lambda image, _: tv.rgb_to_grayscale(image, num_output_channels=3),
    }
    [function] = [function for name, function in functions.items() if getattr(ranges, name)]
    for image, factor, found in zip(images(), factors, changed, strict=True):
        expected = 255 * function(image.float() / 255, float(factor))
        assert float((found - expected).abs().max()) <= tolerance + rounding
    assert ranges.grey or np.ptp(factors) > width + ranges.hue


def test_changes_of_colour_follow_each_other_in_any_order(seen: list[Any]) -> None:
    """Each sample is one of the orders of torchvision's three functions; several orders occur."""
    count = 30
    changed = batch(images(count), drawn(Ranges(0.1, 0.3, 0.3), count))
    factors = [values for _, _, values in seen[:3]]
    functions = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
    orders = set()
    for index in range(count):
        errors = {}
        for order in permutations(range(3)):
            image = images(1)[0].float() / 255
            for kind in order:
                image = functions[kind](image, float(factors[kind][index]))
            errors[order] = float((changed[index] - 255 * image).abs().max())
        best = min(errors, key=lambda order: errors[order])
        assert errors[best] < 0.05
        orders.add(best)
    assert len(orders) > 2


@BOTH
def test_blur_is_torchvisions(make: Make, rounding: float) -> None:
    sigmas = np.linspace(0.3, 1.5, COUNT)
    changed = make(images(), replace(NOTHING, sigma=sigmas))
    for image, sigma, found in zip(images(), sigmas, changed, strict=True):
        expected = tv.gaussian_blur(image.float(), [5, 5], [float(sigma)] * 2)
        assert float((found - expected).abs().max()) <= 0.02 + rounding


@pytest.mark.parametrize("quality", [30, 49, 50, 75, 95])
def test_jpeg_is_libjpegs(quality: int) -> None:
    """A page goes through a library; a batch comes to the same, but for rounding on the way.

    A coefficient that another rounding puts on the other side of a step changes its whole block.
    """
    random = np.random.default_rng(quality)
    noisy = images() + torch.from_numpy(random.integers(0, 30, (COUNT, 1, *SIZE), np.uint8))
    noisy[:, 0, :20] += 40  # a red half
    chosen = replace(NOTHING, quality=np.full(COUNT, float(quality)))
    expected = torch.stack([tv.jpeg(image, quality) for image in noisy]).float()
    assert torch.equal(pages(noisy, chosen), expected)
    found = batch(noisy, chosen)
    lost = (noisy.float() - expected).abs().mean()
    assert (found - expected).abs().mean() < min(0.4 * lost, 0.7), (lost, found - expected)


@BOTH
def test_noise_is_gaussian_and_a_samples_own(make: Make, rounding: float) -> None:
    levels = np.linspace(2.0, 20.0, COUNT)
    grey = torch.full((COUNT, 3, *SIZE), 128, dtype=torch.uint8)
    chosen = replace(NOTHING, levels=levels)
    noise = make(grey, chosen) - 128
    flat = noise.flatten(2).double()
    assert torch.allclose(
        flat.std(dim=2), torch.from_numpy(levels)[:, None].expand(-1, 3), rtol=0.1
    )
    assert float((flat.mean(dim=2).abs() / torch.from_numpy(levels)[:, None]).max()) < 0.08
    channels = torch.stack([torch.corrcoef(of) for of in flat])
    assert float((channels - torch.eye(3)).abs().max()) < 0.1
    samples = torch.corrcoef(flat[:, 0])
    assert float((samples - torch.eye(COUNT)).abs().max()) < 0.12
    alone = make(grey[5:6], chosen.part(5, 6)) - 128
    assert torch.equal(alone[0], noise[5])
    bright = make(torch.full_like(grey, 250), chosen)
    assert float(bright.max()) <= 255 and bright[-1].mean() < 250  # clipped


def test_a_page_and_a_batch_are_changed_alike() -> None:
    """All at once: colours, blur, noise of equal seeds, JPEG."""
    ranges = replace(PHOTOMETRIC["strong"], blur=1.0, noise=1.0, jpeg=1.0, quality=(95, 95))
    changes = drawn(ranges)
    one, other = (make(images(), changes) for make in (batch, pages))
    assert min(changes.sigma.min(), changes.levels.min(), changes.quality.min()) > 0
    # each step leaves whole numbers in a page, and noise has its channels in another order
    assert float((one.mean(dim=(2, 3)) - other.mean(dim=(2, 3))).abs().max()) < 1.0


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_than_three_channels_have_no_colours(channels: int) -> None:
    """Brightness, contrast and blur (noise knows no channels); of a page as of a batch."""
    ranges = of_channels(replace(PHOTOMETRIC["strong"], blur=1.0, noise=0.0), channels)
    changes = drawn(ranges)
    assert not changes.quality.any()
    three = images()
    pixels = torch.cat([three, three.flip(1)], dim=1)[:, :channels]
    one, other = (make(pixels, changes) for make in (batch, pages))
    assert one.shape == other.shape == pixels.shape
    assert float((one.mean(dim=(2, 3)) - other.mean(dim=(2, 3))).abs().max()) < 1.0
    shift = (one - pixels).mean(dim=(2, 3))
    assert float(shift.abs().max()) > 5  # something is done


@pytest.mark.parametrize("name", ["blur", "noise", "jpeg"])
@BOTH
def test_only_a_share_changes(make: Make, rounding: float, name: str) -> None:
    count = 100
    chosen = drawn(Ranges(**{name: 0.2}), count)
    field = {"blur": "sigma", "noise": "levels", "jpeg": "quality"}[name]
    touched = getattr(chosen, field) > 0
    changed = make(images(count), chosen)
    same = (changed == images(count).float()).flatten(1).all(dim=1).numpy()
    assert 8 < touched.sum() < 35
    assert not (~same & ~touched).any()
    assert (~same).sum() > 0.7 * touched.sum()  # a narrow blur may change no whole number


def test_strengths_grow_and_none_is_nothing() -> None:
    assert torch.equal(batch(images(), drawn(PHOTOMETRIC["none"])), images().float())
    assert torch.equal(pages(images(), drawn(PHOTOMETRIC["none"])), images().float())
    moved = {
        name: float((batch(images(200), drawn(ranges, 200)) - images(200)).abs().mean())
        for name, ranges in PHOTOMETRIC.items()
    }
    assert moved["none"] < moved["light"] < moved["medium"] < moved["strong"]


def test_tables_are_those_of_the_standard() -> None:
    [[luma, chroma]] = module._quantisers(np.array([50.0]))
    assert (luma[0, 0], luma[7, 7], chroma[0, 0], chroma[7, 7]) == (16, 99, 17, 99)
    [best] = module._quantisers(np.array([100.0]))
    assert (best == 1).all()


def test_draws_are_uniform_and_independent() -> None:
    uniform = Uniform(7, 3, range(20_000))
    columns = np.stack([uniform.next() for _ in range(6)])
    assert columns.min() >= 0 and columns.max() < 1
    for column in columns:
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    off = np.corrcoef(columns) - np.eye(6)
    neighbours = [np.corrcoef(column[:-1], column[1:])[0, 1] for column in columns]
    assert np.abs(off).max() < 0.03 and np.abs(neighbours).max() < 0.03
