"""Images and masks in batches: a function of their key, and moved as torchvision moves one.

Colours: test_photometric.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from trainers import augment as module
from trainers.augment import STRENGTHS, Plan, Strength, augment, plan
from trainers.draws import Uniform
from trainers.losses import IGNORE

CPU = torch.device("cpu")
SIZE = (32, 48)


def scene(count: int = 1) -> tuple[Tensor, Tensor]:
    """Bright where the mask is 1."""
    mask = torch.zeros(count, *SIZE, dtype=torch.uint8)
    mask[:, 8:20, 5:25] = 1
    image = torch.where(mask == 1, 210, 40).to(torch.uint8)
    return image.unsqueeze(1).repeat(1, 3, 1, 1), mask


def smooth_images(count: int) -> Tensor:
    """(N, 3, H, W) uint8 colour ramps, far from 0 and 255."""
    y, x = torch.meshgrid(
        torch.linspace(0, 1, SIZE[0]), torch.linspace(0, 1, SIZE[1]), indexing="ij"
    )
    image = torch.stack([100 + 40 * x, 110 + 30 * y, 120 + 20 * x * y])
    return image.round().to(torch.uint8).expand(count, -1, -1, -1)


def drawn(strength: Strength, count: int, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setitem(STRENGTHS, "tried", strength)
    return plan("tried", None, SIZE, 1, 2, range(count)).part(0, count, CPU)


@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_a_sample_is_a_function_of_seed_epoch_and_index(strength: str) -> None:
    """Whatever its place in the epoch and its neighbours in the batch."""
    images, masks = scene(7)
    before = torch.get_rng_state()
    together = augment(images, masks, plan(strength, None, SIZE, 3, 1, range(7)).part(0, 7, CPU))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)  # whatever else has drawn numbers meanwhile
    epoch = plan(strength, None, SIZE, 3, 1, [9, 4, 8, 2])
    pair = augment(images[:2], masks[:2], epoch.part(2, 4, CPU))
    assert torch.allclose(pair[0][1], together[0][2], atol=1e-3)  # the 2 that was drawn last
    assert torch.equal(pair[1][1], together[1][2])
    others = [
        augment(
            images[:1], masks[:1], plan(strength, None, SIZE, seed, turn, [index]).part(0, 1, CPU)
        )
        for seed, turn, index in ((4, 1, 4), (3, 2, 4), (3, 1, 5))
    ]
    assert all(not torch.equal(other[0][0], together[0][4]) for other in others)


@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_image_and_mask_move_together(strength: str) -> None:
    """The image is bright where the mask is 1; so it is after any augmentation."""
    images, masks = scene(200)
    moved, truths = augment(
        images, masks, plan(strength, None, SIZE, 0, 0, range(200)).part(0, 200, CPU)
    )
    assert moved.shape == images.shape and moved.dtype == torch.float32
    assert float(moved.min()) >= 0 and float(moved.max()) <= 255
    assert truths.shape == masks.shape and truths.dtype == torch.int64
    assert set(np.unique(truths)) == ({0, 1, IGNORE} if strength == "strong" else {0, 1})
    assert not moved.mean(1)[truths == IGNORE].gt(8).any() or strength == "strong"  # black, blurred
    checked = 0
    for image, truth in zip(moved.mean(dim=1), truths, strict=True):
        if (truth == 1).sum() > 20 and (truth == 0).sum() > 20:
            assert image[truth == 1].mean() > image[truth == 0].mean() + 20
            checked += 1
    assert checked > 150


def test_no_augmentation_is_no_change() -> None:
    images, masks = scene(3)
    same = augment(images, masks, plan("none", "none", SIZE, 0, 0, range(3)).part(0, 3, CPU))
    assert torch.equal(same[0], images.float()) and torch.equal(same[1], masks.long())


def test_half_of_the_samples_are_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    images, masks = scene(400)
    moved, truths = augment(images, masks, drawn(Strength(), 400, monkeypatch))
    flipped = (truths == masks.flip(2).long()).flatten(1).all(dim=1)
    assert torch.equal(moved[flipped], images.flip(3)[flipped].float())
    assert torch.equal(moved[~flipped], images[~flipped].float())
    assert 150 < int(flipped.sum()) < 250


def test_rotation_is_torchvisions_and_its_border_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, masks = smooth_images(16), scene(16)[1]
    chosen = drawn(Strength(degrees=10.0), 16, monkeypatch)
    assert chosen.warp is not None
    moved, truths = augment(images, masks, chosen)
    angles = []
    for index in range(16):
        image, mask = images[index].float(), masks[index]
        if bool(chosen.flip[index]):
            image, mask = image.flip(2), mask.flip(1)
        sign = -1.0 if bool(chosen.flip[index]) else 1.0
        a, b = float(chosen.warp[index, 0, 0]) * sign, float(chosen.warp[index, 1, 0])
        degrees = math.degrees(math.atan2(b * SIZE[0] / SIZE[1], a))
        angles.append(degrees)
        bilinear = v2.InterpolationMode.BILINEAR
        expected = tv.rotate(image, degrees, interpolation=bilinear, fill=[0.0])
        truth = tv.rotate(mask.unsqueeze(0), degrees, fill=[float(IGNORE)])[0]
        whole = (truths[index] != IGNORE) & (truth != IGNORE)
        whole[[0, -1]] = whole[:, [0, -1]] = False  # where torchvision blends in the black
        inner = ~torch.nn.functional.max_pool2d((~whole).float()[None], 3, 1, 1)[0].bool()
        assert torch.allclose(moved[index][:, inner], expected[:, inner], atol=0.5)
        assert (truths[index] != truth).float().mean() < 0.02
        assert not moved[index][:, truths[index] == IGNORE].any()
    assert min(angles) < -5 and max(angles) > 5 and max(map(abs, angles)) <= 10


def test_crops_are_torchvisions() -> None:
    """The same distributions of area, aspect ratio and place (two-sample Kolmogorov-Smirnov)."""
    count = 3000
    crop = module._crops(Uniform(0, 0, range(count)), 0.25, SIZE)
    aspect = SIZE[1] / SIZE[0]
    transform = v2.RandomResizedCrop(
        SIZE, scale=(0.25, 1.0), ratio=(aspect * 0.9, aspect * 1.1), antialias=True
    )
    torch.manual_seed(0)
    image = torch.zeros(3, SIZE[0] * 20, SIZE[1] * 20)  # large: torchvision's crops are whole px
    height, width = image.shape[1:]
    rows = [transform.make_params([image]) for _ in range(count)]
    theirs = np.array(
        [[p["width"] / width, p["height"] / height, p["left"], p["top"]] for p in rows]
    )
    assert ks_2samp(crop[:, 0] * crop[:, 1], theirs[:, 0] * theirs[:, 1]).pvalue > 0.01
    assert ks_2samp(crop[:, 0] / crop[:, 1], theirs[:, 0] / theirs[:, 1]).pvalue > 0.01
    left = (crop[:, 2] + 1 - crop[:, 0]) / 2
    top = (crop[:, 3] + 1 - crop[:, 1]) / 2
    assert ks_2samp(left, theirs[:, 2] / width).pvalue > 0.01
    assert ks_2samp(top, theirs[:, 3] / height).pvalue > 0.01
    assert (left >= -1e-9).all() and (left + crop[:, 0] <= 1 + 1e-9).all()


def test_a_crop_shows_its_part_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal to cutting out and enlarging, with a crop of whole pixels."""
    images, masks = smooth_images(1), scene()[1]
    crop = np.array([[0.5, 0.5, 2 * (6 + 12) / 48 - 1, 2 * (4 + 8) / 32 - 1]])
    warp = module._warps(np.array([False]), np.zeros(1), crop, SIZE)
    monkeypatch.setattr(module, "_warps", lambda *args: warp)
    moved, truths = augment(images, masks, drawn(Strength(0.5), 1, monkeypatch))
    expected = tv.resized_crop(images.float(), 4, 6, 16, 24, list(SIZE), antialias=True)
    assert torch.allclose(moved[:, :, 2:-2, 2:-2], expected[:, :, 2:-2, 2:-2], atol=0.05)
    nearest = tv.resized_crop(masks, 4, 6, 16, 24, list(SIZE), v2.InterpolationMode.NEAREST)
    assert torch.equal(truths, nearest.long())
