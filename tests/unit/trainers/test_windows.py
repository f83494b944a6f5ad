"""Windows of a large image: where they lie, and their logits as one image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from trainers.losses import IGNORE
from trainers.windows import Place, _gaussian, at_size, cut, fill, starts, strips

CPU = torch.device("cpu")


@given(st.integers(1, 500), st.integers(16, 200), st.floats(0, 0.9))
def test_windows_reach_both_ends_and_overlap(length: int, window: int, overlap: float) -> None:
    found = starts(length, window, overlap)
    assert found[0] == 0 and found[-1] == max(0, length - window)
    most = max(1, int(window * (1 - overlap)))
    steps = [after - before for before, after in pairwise(found)]
    assert all(1 <= step <= most for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= 1


def test_a_window_beyond_its_image_is_filled() -> None:
    image, mask = torch.zeros(5, 7, 3, dtype=torch.uint8), torch.ones(5, 7, dtype=torch.uint8)
    inside, filled = cut(image, (2, 4), (3, 3)), cut(image, (2, 4), (4, 5))
    assert inside.shape == (3, 3, 3) and inside.sum() == 0
    assert filled.shape == (4, 5, 3) and torch.equal(filled[:3, :3], inside)
    assert filled[3, 0].tolist() == filled[0, 4].tolist() == list(fill(3))
    assert cut(mask, (2, 4), (4, 5))[3].tolist() == [IGNORE] * 5


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))


def whole(network: nn.Module, image: Tensor, window: tuple[int, int], batch: int) -> Tensor:
    """(C, H, W) of strips one below the other."""

    def run(windows: Tensor, places: Sequence[Place]) -> Tensor:
        assert len(windows) == len(places) <= batch and windows.shape[2:] == window
        logits: Tensor = network(windows.float() / 255)
        return logits

    with torch.no_grad():
        found = list(strips(image, window, run, overlap=0.5, batch=batch))
    ends = [top + strip.shape[1] for top, strip in found]
    assert [0, *ends] == [*(top for top, _ in found), image.shape[0]]
    return torch.cat([strip for _, strip in found], dim=1)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_blending_is_monais(network: nn.Module, batch: int) -> None:
    """Sizes at which windows at even distances are those that it takes: 5 and 3 of them."""
    image = torch.randint(256, (96, 96, 3), dtype=torch.uint8)
    pixels = image.permute(2, 0, 1)[None].float() / 255
    weights = _gaussian(32, CPU)[:, None] * _gaussian(48, CPU)
    theirs = compute_importance_map((32, 48), "gaussian", 1 / 8)  # none below 1e-3
    assert torch.allclose(weights.clamp(min=1e-3), theirs, atol=1e-6)
    with torch.no_grad():
        expected = sliding_window_inference(
            pixels, (32, 48), 4, network, overlap=0.5, roi_weight_map=weights
        )
    assert isinstance(expected, Tensor) and expected.std() > 0.05
    assert torch.allclose(whole(network, image, (32, 48), batch), expected[0], atol=1e-5)


@pytest.mark.parametrize("size", [(10, 20), (40, 20), (10, 70), (33, 49), (200, 31)])
def test_where_all_windows_agree_the_result_is_theirs(size: tuple[int, int]) -> None:
    """A network that looks at single pixels, on images smaller and larger than its input."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 1)
    image = torch.randint(256, (*size, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = network(image.permute(2, 0, 1)[None].float() / 255)[0]
    for batch in (1, 4):
        assert torch.allclose(whole(network, image, (32, 48), batch), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(90, 61), (45, 30), (7, 200), (1, 1), (47, 40)])
@pytest.mark.parametrize("step", [1, 7, 47])
def test_strips_are_resized_as_the_whole_is(size: tuple[int, int], step: int) -> None:
    logits = torch.randn(3, 47, 31)
    expected = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    parts = ((top, logits[:, top : top + step]) for top in range(0, 47, step))
    found = list(at_size(parts, (47, 31), size, elements=500))
    rows = [strip.shape[1] for _, strip in found]
    assert [top for top, _ in found] == [sum(rows[:i]) for i in range(len(rows))]
    assert torch.allclose(torch.cat([strip for _, strip in found], dim=1), expected, atol=1e-5)


def test_memory_is_bounded_by_the_width(network: nn.Module) -> None:
    """What is held of a tall image are the rows of a window and of the step to the next."""
    held = 0

    def run(windows: Tensor, places: Sequence[Place]) -> Tensor:
        return windows.new_zeros(len(windows), 5, 32, 32, dtype=torch.float32)

    image = torch.zeros(2000, 64, 3, dtype=torch.uint8)
    for _, strip in strips(image, (32, 32), run, overlap=0.25, batch=4):
        held = max(held, strip.untyped_storage().nbytes() // (5 * 64 * 4))
    assert held <= 32 + 2 * 24
