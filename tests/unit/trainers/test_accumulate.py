"""The gradient of a batch does not depend on how much of it fits into memory at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from spaces.loss import LossConfig
from trainers.accumulate import backward, split_sizes
from trainers.losses import IGNORE, PIXEL_LOSSES, REGION_LOSSES, SegmentationLoss


def net(norm: bool = False, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Conv2d(8, 4, 3, padding=1),
    )


def gradients(
    micro_batch: int, settings: dict[str, object], epoch: int = 5
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Gradients and loss parts of one batch of 6, whose images differ in void and classes."""
    model = net()
    torch.manual_seed(1)
    images = torch.randn(6, 3, 8, 8)
    target = torch.randint(0, 4, (6, 8, 8))
    target[0] = IGNORE  # uneven shares: a mean of micro-batch means would be wrong
    target[1, :4] = IGNORE
    target[2:4] = target[2:4].clamp(max=1)
    config = LossConfig.model_validate({"warmup_epochs": 2, "ramp_epochs": 2, **settings})
    loss = SegmentationLoss(config, [50, 5, 20, 1], binary=False, device=torch.device("cpu"))
    loss.set_epoch(epoch)
    parts = backward(model, model, images, target, loss, micro_batch, lambda total: total)
    return [p.grad for p in model.parameters() if p.grad is not None], parts


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5])
@pytest.mark.parametrize("region", REGION_LOSSES)
@pytest.mark.parametrize("pixel", PIXEL_LOSSES)
def test_any_micro_batch_gives_the_whole_batchs_gradient(
    pixel: str, region: str, micro_batch: int
) -> None:
    settings = {
        "pixel": pixel,
        "region": region,
        "region_share": 0.5,
        "class_weights": {"method": "sqrt_inv_freq"},
    }
    whole, whole_parts = gradients(6, settings)
    parted, parts = gradients(micro_batch, settings)
    for one, other in zip(parted, whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)
    for name, value in whole_parts.items():
        assert parts[name].item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize(("epoch", "normalize"), [(0, "none"), (0, "ema"), (5, "ema")])
def test_warmup_and_ema_too(epoch: int, normalize: str) -> None:
    """Epoch 0 has no region term: one pass suffices, unless its scale must be known first."""
    settings: dict[str, object] = {"normalize": normalize, "region_share": 0.5}
    whole, whole_parts = gradients(6, settings, epoch)
    parted, parts = gradients(2, settings, epoch)
    for one, other in zip(parted, whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)
    assert parts["region"].item() == pytest.approx(whole_parts["region"].item(), rel=1e-5)


def test_means_of_micro_batches_would_be_wrong() -> None:
    """The test above can fail: plain accumulation of micro-batch losses gives other gradients."""
    settings: dict[str, object] = {"region_share": 0.5}
    whole, _ = gradients(6, settings)
    model = net()
    torch.manual_seed(1)
    images, target = torch.randn(6, 3, 8, 8), torch.randint(0, 4, (6, 8, 8))
    target[0] = IGNORE
    target[1, :4] = IGNORE
    target[2:4] = target[2:4].clamp(max=1)
    config = LossConfig.model_validate({"warmup_epochs": 0, "ramp_epochs": 0, **settings})
    loss = SegmentationLoss(config, [50, 5, 20, 1], binary=False, device=torch.device("cpu"))
    for part, truth in zip(images.split(2), target.split(2), strict=True):
        (loss(model(part), truth)[0] / 3).backward()
    naive = [p.grad for p in model.parameters() if p.grad is not None]
    assert not all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(naive, whole, strict=True))


def test_dropout_is_the_same_in_both_passes() -> None:
    """The second pass must see the masks of the first, or its gradient belongs to another loss."""
    model = net(dropout=0.5)
    torch.manual_seed(2)
    images, target = torch.randn(4, 3, 8, 8), torch.randint(0, 4, (4, 8, 8))
    config = LossConfig(warmup_epochs=0, ramp_epochs=0, region_share=0.5)
    loss = SegmentationLoss(config, [1, 1, 1, 1], binary=False, device=torch.device("cpu"))
    seen: list[Tensor] = []

    def run(part: Tensor) -> Tensor:
        logits: Tensor = model(part)
        seen.append(logits.detach().clone())
        return logits

    backward(run, model, images, target, loss, 2, lambda total: total)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])


def test_running_statistics_count_each_image_once() -> None:
    """Two passes of 2 + 2 leave batch norm where one pass of 2 + 2 would."""
    model, reference = net(norm=True), net(norm=True)
    torch.manual_seed(3)
    images, target = torch.randn(4, 3, 8, 8), torch.randint(0, 4, (4, 8, 8))
    config = LossConfig(warmup_epochs=0, ramp_epochs=0, region_share=0.5)
    loss = SegmentationLoss(config, [1, 1, 1, 1], binary=False, device=torch.device("cpu"))
    backward(model, model, images, target, loss, 2, lambda total: total)
    for part in images.split(2):
        reference(part)
    assert torch.allclose(model[1].running_mean, reference[1].running_mean)  # type: ignore[index]
    assert torch.allclose(model[1].running_var, reference[1].running_var)  # type: ignore[index]
    assert model[1].momentum == 0.1  # type: ignore[index]


@given(batch=st.integers(1, 200), micro_batch=st.integers(1, 64))
def test_sizes_are_even_and_fit(batch: int, micro_batch: int) -> None:
    sizes = split_sizes(batch, micro_batch)
    assert sum(sizes) == batch
    assert max(sizes) <= micro_batch
    assert max(sizes) - min(sizes) <= 1


@given(batch=st.integers(2, 200), micro_batch=st.integers(2, 64))
def test_no_image_is_alone_where_two_are_needed(batch: int, micro_batch: int) -> None:
    sizes = split_sizes(batch, micro_batch, smallest=2)
    assert sum(sizes) == batch
    assert min(sizes) >= 2
    assert max(sizes) <= max(3, micro_batch)
