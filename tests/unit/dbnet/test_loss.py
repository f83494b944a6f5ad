"""The DBNet loss against MONAI, torchvision and NumPy, and at the edges of the number formats."""

from __future__ import annotations

from collections.abc import Callable

import monai.losses
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from trainers.dbnet.loss import PIXEL_LOSSES, REGRESSIONS, DBLoss, TargetMaps, hard_negatives

SHAPE = (2, 24, 32)  # (B, H, W)


def maps(seed: int = 0) -> TargetMaps:
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.zeros(SHAPE, dtype=torch.uint8)
    kernel[0, 4:9, 3:20] = 1
    kernel[1, 12:15, 8:30] = 1
    mask = torch.ones(SHAPE, dtype=torch.uint8)
    mask[0, 6:12, 12:25] = 0  # over text and background
    threshold = 0.3 + 0.4 * torch.rand(SHAPE, generator=generator)
    border = torch.zeros(SHAPE, dtype=torch.uint8)
    border[:, 2:18, 1:31] = 1
    return TargetMaps(kernel, mask, threshold, border)


def logits(seed: int = 1, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn((SHAPE[0], 1, *SHAPE[1:]), generator=generator)


def part(loss: DBLoss, name: str) -> float:
    return float(loss(logits(1), logits(2), maps())[1][name])


def test_hard_negative_bce_equals_sorting_by_hand() -> None:
    target = maps()
    p = 1 / (1 + np.exp(-logits(1).double().numpy()[:, 0]))
    kernel, mask = target.kernel.numpy() == 1, target.kernel_mask.numpy() == 1
    costs = -np.log(np.where(kernel, p, 1 - p))
    positive, negative = costs[kernel & mask], np.sort(costs[~kernel & mask])[::-1]
    count = min(3 * len(positive), len(negative))
    expected = (positive.sum() + negative[:count].sum()) / (len(positive) + count)
    assert count < len(negative)  # else nothing is selected
    assert part(DBLoss("bce"), "pixel") == pytest.approx(expected, rel=1e-5)


def test_all_negatives_are_taken_where_there_are_few() -> None:
    target = maps()
    every = torch.nn.functional.binary_cross_entropy_with_logits(
        logits(1)[:, 0][target.kernel_mask == 1], target.kernel[target.kernel_mask == 1].float()
    )
    assert part(DBLoss("bce", negative_ratio=1e3), "pixel") == pytest.approx(float(every), rel=1e-5)


@pytest.mark.parametrize("pixel", ["bce", "focal"])
def test_label_smoothing_is_the_loss_of_softer_kernels(pixel: str) -> None:
    target = maps()
    valid = target.kernel_mask == 1
    x, kernel = logits(1)[:, 0][valid], target.kernel[valid].float()
    soft = torch.where(kernel > 0, 0.9, 0.1)
    values = torch.nn.functional.binary_cross_entropy_with_logits(x, soft, reduction="none")
    count = valid.sum()
    if pixel == "focal":
        values = values * torch.where(kernel > 0, -x, x).sigmoid() ** 2
        count = kernel.sum()
    loss = DBLoss(pixel, negative_ratio=1e3, label_smoothing=0.2)
    assert part(loss, "pixel") == pytest.approx(float(values.sum() / count), rel=1e-5)
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        DBLoss(label_smoothing=1.0)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_equals_torchvision(gamma: float, alpha: float | None) -> None:
    target = maps()
    valid = target.kernel_mask == 1
    value = sigmoid_focal_loss(
        logits(1)[:, 0][valid],
        target.kernel[valid].float(),
        alpha=-1 if alpha is None else alpha,
        gamma=gamma,
        reduction="sum",
    )
    expected = float(value) / int(target.kernel[valid].sum())
    loss = DBLoss("focal", focal_gamma=gamma, focal_alpha=alpha)
    assert part(loss, "pixel") == pytest.approx(expected, rel=1e-5)


def test_focal_of_almost_no_text_is_divided_by_a_floor() -> None:
    target = adversarial("one pixel")
    value = sigmoid_focal_loss(logits(1)[:, 0], target.kernel, alpha=-1, reduction="sum")
    found = DBLoss("focal")(logits(1), logits(2), target)[1]["pixel"]
    assert float(found) == pytest.approx(float(value) / (0.01 * 2 * 24 * 32), rel=1e-5)


ERRORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "l1": np.abs,
    "huber": lambda e: np.where(np.abs(e) <= 0.1, e * e / 2, 0.1 * (np.abs(e) - 0.05)),
    "log_cosh": lambda e: np.log(np.cosh(e)),
}


@pytest.mark.parametrize("name", sorted(REGRESSIONS))
def test_regressions_equal_numpy(name: str) -> None:
    target = maps()
    t = 1 / (1 + np.exp(-logits(2).double().numpy()[:, 0]))
    errors = (t - target.threshold.double().numpy())[target.threshold_mask.numpy() == 1]
    expected = ERRORS[name](errors).mean()
    assert part(DBLoss(regression=name), "threshold") == pytest.approx(expected, rel=1e-4)


def test_dice_equals_monai() -> None:
    target = maps()
    binary = torch.sigmoid(50 * (logits(1).sigmoid() - logits(2).sigmoid()))
    oracle = monai.losses.MaskedDiceLoss(batch=True, smooth_nr=0, smooth_dr=1e-6)
    kernel, mask = target.kernel[:, None].float(), target.kernel_mask[:, None].float()
    assert part(DBLoss(), "dice") == pytest.approx(float(oracle(binary, kernel, mask)), rel=1e-5)


def test_the_total_is_the_weighted_sum_and_aux_scale_ramps_two_terms() -> None:
    loss = DBLoss(pixel_weight=2, threshold_weight=3, dice_weight=4)
    for aux_scale in (0.0, 0.25, 1.0):
        total, parts = loss(logits(1), logits(2), maps(), aux_scale=aux_scale)
        auxiliary = 3 * parts["threshold"] + 4 * parts["dice"]
        assert float(total) == pytest.approx(float(2 * parts["pixel"] + aux_scale * auxiliary))
        assert not any(value.requires_grad for value in parts.values())


def test_aux_scale_zero_leaves_the_threshold_branch_alone() -> None:
    t = logits(2).requires_grad_()
    DBLoss()(logits(1), t, maps(), aux_scale=0.0)[0].backward()
    assert t.grad is not None and not t.grad.any()


def test_counting_beforehand_changes_nothing() -> None:
    target = maps()
    count = hard_negatives(target.kernel, target.kernel_mask)
    text = int((target.kernel * target.kernel_mask).sum())
    assert count == 3 * text
    counted = DBLoss()(logits(1), logits(2), target, negatives=count)[0]
    assert float(counted) == float(DBLoss()(logits(1), logits(2), target)[0])


def adversarial(kind: str) -> TargetMaps:
    zeros, ones = torch.zeros(SHAPE), torch.ones(SHAPE)
    threshold = torch.full(SHAPE, 0.3)
    if kind == "all text":
        return TargetMaps(ones, ones, threshold, ones)
    if kind == "no text":
        return TargetMaps(zeros, ones, threshold, zeros)
    if kind == "all masked":
        return TargetMaps(ones, zeros, threshold, zeros)
    pixel = zeros.clone()
    pixel[0, 3, 5] = 1
    return TargetMaps(pixel, ones, threshold, pixel)


@pytest.mark.parametrize("pixel", sorted(PIXEL_LOSSES))
@pytest.mark.parametrize("regression", sorted(REGRESSIONS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["all text", "no text", "all masked", "one pixel"])
def test_finite_at_the_edges(pixel: str, regression: str, dtype: torch.dtype, kind: str) -> None:
    loss = DBLoss(pixel, regression)
    for scale in (0.0, 1.0, 1e4):  # 1e4 standard deviations: up to fp16's 65504
        p = logits(1, scale).clamp(-65504, 65504).to(dtype).requires_grad_()
        t = logits(2, scale).clamp(-65504, 65504).to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype):
            total, parts = loss(p, t, adversarial(kind))
        assert total.dtype == torch.float32
        total.backward()
        assert all(torch.isfinite(value) for value in parts.values())
        assert p.grad is not None and torch.isfinite(p.grad).all()
        assert t.grad is not None and torch.isfinite(t.grad).all()


def test_the_explicit_form_would_not_be_finite() -> None:
    """What the formula of the paper gives at the logits that the test above survives."""
    p, t = torch.zeros(1, requires_grad=True), torch.full((1,), 10.0)
    (1 / (1 + torch.exp(-50 * (p - t)))).sum().backward()
    assert p.grad is not None and torch.isnan(p.grad).all()


def test_a_text_free_batch_teaches_nothing_by_bce() -> None:
    p, t = logits(1).requires_grad_(), logits(2).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total, parts = DBLoss()(p, t, adversarial("no text"))
    total.backward()
    assert {name: float(value) for name, value in parts.items()} == dict.fromkeys(parts, 0.0)
    assert not p.grad.any() and not t.grad.any()


def test_text_free_focal_still_pushes_down() -> None:
    p = logits(1).requires_grad_()
    DBLoss("focal")(p, logits(2), adversarial("no text"))[0].backward()
    assert (p.grad > 0).all()


def test_low_precision_logits_give_the_fp32_loss() -> None:
    p, t = logits(1).bfloat16(), logits(2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        low = DBLoss()(p, t, maps())[0]
    assert float(low) == float(DBLoss()(p.float(), t.float(), maps())[0])


def test_masked_pixels_have_no_gradient() -> None:
    target = maps()
    for pixel in PIXEL_LOSSES:
        p = logits(1).requires_grad_()
        DBLoss(pixel)(p, logits(2), target)[0].backward()
        assert not p.grad[:, 0][target.kernel_mask == 0].any()
        assert p.grad[:, 0][(target.kernel_mask & target.kernel) == 1].all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pixel": "ce"}, r"pixel must be one of \['bce', 'focal'\], but got 'ce'"),
        ({"regression": "l2"}, "regression must be one of .*, but got 'l2'"),
        ({"dice_weight": -1.0}, "at least 0, but got .*-1.0"),
        ({"negative_ratio": 0.0}, "above 0"),
    ],
)
def test_constructor_errors(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DBLoss(**kwargs)


def test_call_errors() -> None:
    with pytest.raises(ValueError, match=r"threshold logits must be \(2, 1, 24, 32\)"):
        DBLoss()(logits(), logits()[:, :, :12], maps())
    with pytest.raises(ValueError, match=r"aux_scale must be in 0..1, but got 2"):
        DBLoss()(logits(), logits(), maps(), aux_scale=2)
