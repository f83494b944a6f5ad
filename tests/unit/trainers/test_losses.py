"""Losses against outside oracles, and what must not change them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.loss import LossConfig
from trainers.losses import IGNORE, PIXEL_LOSSES, REGION_LOSSES, SegmentationLoss

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from monai.losses import DiceLoss, TverskyLoss
    from segmentation_models_pytorch.losses import LovaszLoss

CPU = torch.device("cpu")
MIXES = [(pixel, region) for pixel in PIXEL_LOSSES for region in REGION_LOSSES]


def make(classes: int = 4, binary: bool = False, counts: Any = None, **settings: Any) -> Any:
    """A loss after warm-up and ramp, with smoothing 1."""
    given = {"warmup_epochs": 0, "ramp_epochs": 0, "smooth": 1.0, **settings}
    counts = counts or [10] * (2 if binary else classes)
    return SegmentationLoss(LossConfig.model_validate(given), counts, binary=binary, device=CPU)


def batch(seed: int, classes: int = 4, void: float = 0.1) -> tuple[Tensor, Tensor]:
    """Random logits (2, C, 6, 7) and targets that hold every class."""
    torch.manual_seed(seed)
    target = torch.randint(0, classes, (2, 6, 7))
    target[torch.rand(target.shape) < void] = IGNORE
    target[0, 0, :classes] = torch.arange(classes)
    return torch.randn(2, classes, 6, 7), target


def masked(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and one-hot truth (1, C, N) of valid pixels only, for MONAI."""
    keep = target.flatten() != IGNORE
    rows = logits.softmax(1).transpose(0, 1).flatten(1)[:, keep]
    truth = F.one_hot(target.flatten()[keep], logits.shape[1]).T.float()
    return rows[None], truth[None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("squared", [True, False])
def test_dice_equals_monai(seed: int, squared: bool) -> None:
    logits, target = batch(seed)
    oracle = DiceLoss(squared_pred=squared, smooth_nr=1.0, smooth_dr=1.0, batch=True)
    ours = make(squared=squared).region(logits, target)
    assert ours.item() == pytest.approx(oracle(*masked(logits, target)).item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_tversky_equals_monai(seed: int) -> None:
    logits, target = batch(seed)
    oracle = TverskyLoss(alpha=0.3, beta=0.7, smooth_nr=1.0, smooth_dr=1.0, batch=True)
    ours = make(region="tversky").region(logits, target)
    assert ours.item() == pytest.approx(oracle(*masked(logits, target)).item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("squared", [True, False])
def test_jaccard_equals_monai(seed: int, squared: bool) -> None:
    """MONAI's is 1 - (2I + s) / (2 (P + T - I) + s): twice our smoothing is the same."""
    logits, target = batch(seed)
    oracle = DiceLoss(jaccard=True, squared_pred=squared, smooth_nr=2.0, smooth_dr=2.0, batch=True)
    ours = make(region="jaccard", squared=squared).region(logits, target)
    assert ours.item() == pytest.approx(oracle(*masked(logits, target)).item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_equals_smp(seed: int) -> None:
    logits, target = batch(seed)
    oracle = LovaszLoss("multiclass", per_image=False, ignore_index=IGNORE)
    ours = make(region="lovasz").region(logits, target)
    assert ours.item() == pytest.approx(oracle(logits, target).item(), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("method", ["none", "sqrt_inv_freq"])
def test_cross_entropy_equals_torch(smoothing: float, method: str) -> None:
    logits, target = batch(0)
    loss = make(
        counts=[1000, 100, 10, 1], label_smoothing=smoothing, class_weights={"method": method}
    )
    oracle = F.cross_entropy(
        logits, target, weight=loss.weights, ignore_index=IGNORE, label_smoothing=smoothing
    )
    ours = loss.pixel_sum(logits, target) / loss.pixel_weight(target)
    assert ours.item() == pytest.approx(oracle.item(), rel=1e-6)


def test_focal_with_gamma_0_is_cross_entropy() -> None:
    logits, target = batch(1)
    focal, plain = make(pixel="focal", focal_gamma=0.0), make()
    assert torch.allclose(focal(logits, target)[0], plain(logits, target)[0], rtol=1e-5)


def test_focal_by_hand() -> None:
    """p_t = 0.8: (1 - 0.8)^2 * -ln 0.8 = 0.04 * 0.223144 = 0.00892574."""
    logits = torch.log(torch.tensor([0.8, 0.2])).view(1, 2, 1, 1)
    loss = make(classes=2, pixel="focal", focal_gamma=2.0)
    value = loss.pixel_sum(logits, torch.zeros(1, 1, 1, dtype=torch.long))
    assert value.item() == pytest.approx(0.00892574, rel=1e-4)


@pytest.mark.parametrize("pixel", ["ce", "bce", "focal"])
def test_binary_pixel_losses_equal_torch(pixel: str) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 1, 5, 5), torch.randint(0, 2, (2, 5, 5))
    loss = make(binary=True, pixel=pixel, focal_gamma=0.0)
    oracle = F.binary_cross_entropy_with_logits(logits[:, 0], target.float())
    ours = loss.pixel_sum(logits, target) / loss.pixel_weight(target)
    assert ours.item() == pytest.approx(oracle.item(), rel=1e-6)


@pytest.mark.parametrize("region", REGION_LOSSES)
def test_absent_classes_do_not_count(region: str) -> None:
    """Classes 2 and 3 are in neither batch nor prediction: as if they did not exist."""
    torch.manual_seed(0)
    target = torch.randint(0, 2, (2, 6, 7))
    logits = torch.randn(2, 2, 6, 7)
    padded = torch.cat([logits, torch.full((2, 2, 6, 7), -60.0)], dim=1)
    few = make(classes=2, region=region).region(logits, target)
    many = make(classes=4, region=region).region(padded, target)
    assert many.item() == pytest.approx(few.item(), abs=1e-6)


@pytest.mark.parametrize(("pixel", "region"), MIXES)
def test_ignored_pixels_do_not_count(pixel: str, region: str) -> None:
    logits, target = batch(2, void=0.4)
    loss = make(pixel=pixel, region=region, region_share=0.5)
    other = torch.where((target == IGNORE)[:, None], 50 * torch.randn_like(logits), logits)
    assert loss(other, target)[0].item() == pytest.approx(loss(logits, target)[0].item(), abs=1e-6)


@pytest.mark.parametrize(("pixel", "region"), MIXES)
@pytest.mark.parametrize("binary", [False, True])
def test_a_batch_of_void_gives_zero_and_no_gradient(pixel: str, region: str, binary: bool) -> None:
    loss = make(binary=binary, pixel=pixel, region=region, region_share=0.5)
    logits = torch.randn(2, 1 if binary else 4, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = loss(logits * 1.0, torch.full((2, 4, 4), IGNORE))
    total.backward()
    assert total.item() == 0
    assert logits.grad is not None and logits.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("pixel", "region"), MIXES)
def test_half_precision_is_summed_in_fp32(pixel: str, region: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 4, 64, 64).to(dtype), torch.randint(0, 4, (2, 64, 64))
    loss = make(pixel=pixel, region=region, region_share=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = loss(logits, target)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(loss(logits.float(), target)[0].item(), rel=1e-6)


@pytest.mark.parametrize(("pixel", "region"), MIXES)
@pytest.mark.parametrize("extreme", [60.0, -60.0])
def test_extreme_logits_stay_finite(pixel: str, region: str, extreme: float) -> None:
    logits = torch.zeros(1, 4, 4, 4)
    logits[:, 0] = extreme
    logits.requires_grad_()
    target = torch.randint(0, 4, (1, 4, 4))
    total, _ = make(pixel=pixel, region=region, region_share=0.5)(logits, target)
    total.backward()
    assert total.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_a_random_prediction_costs_ln_c() -> None:
    _, target = batch(0)
    total, _ = make(region_share=0.0)(torch.zeros(2, 4, 6, 7), target)
    assert total.item() == pytest.approx(1.3862944, rel=1e-6)


def test_the_mix_warms_up_and_ramps() -> None:
    logits, target = batch(0)
    loss = make(warmup_epochs=2, ramp_epochs=4, region_share=0.4)
    for epoch, share in ((0, 0), (1, 0), (2, 0.1), (3, 0.2), (4, 0.3), (5, 0.4), (50, 0.4)):
        loss.set_epoch(epoch)
        total, parts = loss(logits, target)
        mixed = (1 - share) * parts["pixel"] + share * parts["region"]
        assert loss.share == pytest.approx(share)
        assert total.item() == pytest.approx(mixed.item(), rel=1e-6)


def test_ema_makes_the_share_a_share_of_effect() -> None:
    """Each term is divided by its running mean: at first both are 1, whatever their scale."""
    logits, target = batch(0)
    loss = make(normalize="ema", region_share=0.3, ema_decay=0.5)
    first, parts = loss(logits, target)
    assert first.item() == pytest.approx(1.0)
    second, after = loss(2 * logits, target)
    means = {k: 0.5 * parts[k] + 0.5 * after[k] for k in ("pixel", "region")}
    expected = 0.7 * after["pixel"] / means["pixel"] + 0.3 * after["region"] / means["region"]
    assert second.item() == pytest.approx(expected.item(), rel=1e-6)
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(logits, target, learn=False)
    assert all(torch.equal(loss.state_dict()[name], value) for name, value in state.items())


def test_class_weights_are_clipped_in_stages() -> None:
    weights = {"method": "inverse_freq", "max_ratio": 3.0, "stage_epochs": 3, "stage_max_ratio": 2}
    loss = make(counts=[10_000, 100, 10, 1], class_weights=weights)
    loss.set_epoch(2)
    assert (loss.weights.max() / loss.weights.min()).item() == pytest.approx(4)
    loss.set_epoch(3)
    assert (loss.weights.max() / loss.weights.min()).item() == pytest.approx(9)
