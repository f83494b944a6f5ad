"""Learned weights of a loss's terms, against autograd of the papers' own formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from spaces.loss import LossConfig
from spaces.text_detection import TextLossConfig
from trainers.accumulate import backward
from trainers.losses import SegmentationLoss
from trainers.text_detection import BatchTarget, TextDetectionLoss
from trainers.weighting import LR, LearnedWeights

CPU = torch.device("cpu")
SHARE = 0.4


def loss_of(epoch: int = 5, **settings: object) -> SegmentationLoss:
    given = {"region_share": SHARE, "warmup_epochs": 2, "ramp_epochs": 4, **settings}
    loss = SegmentationLoss(
        LossConfig.model_validate(given), [50, 5, 20, 1], binary=False, device=CPU
    )
    loss.set_epoch(epoch)
    return loss


class Batch:
    """A network of two layers, and six images; the last layer is shared by all terms."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.shared = nn.Conv2d(8, 4, 3, padding=1)
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), self.shared)
        self.images = torch.randn(6, 3, 8, 8)
        self.target = torch.randint(0, 4, (6, 8, 8))

    def backward(
        self, loss: SegmentationLoss, micro_batch: int = 6, scale: float = 1.0
    ) -> dict[str, float]:
        """Gradients of the logarithms, where there are any."""
        backward(
            self.model,
            self.model,
            self.images,
            self.target,
            loss,
            micro_batch,
            lambda value: value * scale,
            shared=lambda model: [self.shared.weight],
        )
        assert loss.learned is not None
        logs = loss.learned.logs.items()
        return {name: float(log.grad) / scale for name, log in logs if log.grad is not None}


def kendall(loss: SegmentationLoss, batch: Batch) -> dict[str, float]:
    """d/d(-s) of sum(e^-s L + s / 2) at the starting weights."""
    terms, _ = loss.terms(batch.model(batch.images), batch.target)
    start = {"pixel": 1 - SHARE, "region": SHARE}
    s = {name: torch.tensor(-math.log(w), requires_grad=True) for name, w in start.items()}
    total = torch.stack([(-s[n]).exp() * terms[n].detach() + s[n] / 2 for n in s]).sum()
    total.backward()
    return {name: -float(one.grad) for name, one in s.items() if one.grad is not None}


def chen(
    loss: SegmentationLoss, batch: Batch, first: dict[str, float], alpha: float
) -> dict[str, float]:
    """d/d log(w) of sum(|G - mean(G) r^alpha|), the target a constant, in units of mean(G)."""
    terms, _ = loss.terms(batch.model(batch.images), batch.target)
    w = {name: torch.tensor(weight, requires_grad=True) for name, weight in first.items()}
    start = {"pixel": 1 - SHARE, "region": SHARE}
    assert loss.learned is not None
    norms = []
    for name, term in terms.items():
        w[name] = torch.tensor(start[name], requires_grad=True)
        (gradient,) = torch.autograd.grad(
            w[name] * term, batch.shared.weight, create_graph=True, retain_graph=True
        )
        norms.append(gradient.norm())
    norm = torch.stack(norms)
    rate = torch.stack([terms[name].detach() / first[name] for name in terms])
    target = (norm.mean() * (rate / rate.mean()) ** alpha).detach()
    (norm - target).abs().sum().backward()
    mean = float(norm.mean().detach())
    return {n: float(one.grad) * start[n] / mean for n, one in w.items() if one.grad is not None}


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("micro_batch", [6, 2, 1])
def test_the_gradient_is_that_of_the_paper(micro_batch: int, scale: float) -> None:
    """However the batch is cut, and whatever a gradient scaler multiplies by."""
    batch = Batch()
    loss = loss_of(weighting="uncertainty")
    expected = kendall(loss, batch)
    assert batch.backward(loss, micro_batch, scale) == pytest.approx(expected, rel=1e-4)
    loss = loss_of(weighting="gradnorm", gradnorm_alpha=0.5)
    assert loss.learned is not None
    first = {"pixel": 2.0, "region": 0.5}  # of an earlier step: the terms differ in their rates
    loss.learned.first = {name: torch.tensor(value) for name, value in first.items()}
    expected = chen(loss, batch, first, 0.5)
    assert len({math.copysign(1, value) for value in expected.values()}) == 2
    assert batch.backward(loss, micro_batch, scale) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm"])
def test_the_network_has_the_gradient_of_the_weighted_sum(method: str) -> None:
    """With the starting weights: those of the config, the region's on its ramp."""
    batch, other = Batch(), Batch()
    loss = loss_of(epoch=3, weighting=method)  # half of the ramp
    batch.backward(loss, 2)
    terms, _ = loss.terms(other.model(other.images), other.target)
    ((1 - SHARE) * terms["pixel"] + 0.5 * SHARE * terms["region"]).backward()
    pairs = zip(batch.model.parameters(), other.model.parameters(), strict=True)
    for one, two in pairs:
        assert one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm"])
def test_nothing_is_learned_in_warm_up(method: str) -> None:
    loss = loss_of(epoch=1, weighting=method)
    batch = Batch()
    assert batch.backward(loss) == {} and batch.backward(loss, 2) == {}
    terms, _ = loss.terms(batch.model(batch.images), batch.target)
    assert loss.total(terms) is terms["pixel"]
    loss.set_epoch(2)
    assert len(batch.backward(loss)) == 2


@pytest.mark.parametrize(("share", "learned"), [(0.0, False), (1.0, False), (0.5, True)])
def test_a_term_of_weight_0_is_left_out(share: float, learned: bool) -> None:
    """One term alone has nothing to be weighted against."""
    loss = loss_of(weighting="uncertainty", region_share=share)
    assert (loss.learned is not None) is learned
    config = TextLossConfig(weighting="gradnorm", dice_weight=0, ramp_epochs=2)
    text = TextDetectionLoss(config, CPU)
    text.set_epoch(0)
    assert text.learned is not None and list(text.learned.logs) == ["pixel", "threshold"]
    maps = torch.ones(1, 4, 8, 8)
    terms, _ = text.terms(torch.randn(1, 2, 8, 8), BatchTarget(maps, 0))
    half = 5 * terms["pixel"] + 0.5 * 10 * terms["threshold"]
    assert float(text.total(terms)) == pytest.approx(float(half))


def settled(weights: LearnedWeights, values: list[Tensor], norms: list[Tensor] | None) -> Tensor:
    """The weights after 400 steps in which neither values nor norms change."""
    optimizer = torch.optim.AdamW(weights.logs.values(), lr=LR, weight_decay=0)
    named = dict(zip(weights.logs, values, strict=True))
    lengths = None if norms is None else dict(zip(weights.logs, norms, strict=True))
    for _ in range(400):
        weights.learn(named, lambda value: value, lengths)
        optimizer.step()
    return torch.stack(list(weights.weights().values()))


def test_uncertainty_settles_at_half_a_terms_inverse() -> None:
    weights = LearnedWeights("uncertainty", {"pixel": 5.0, "threshold": 10.0}, 0, CPU)
    found = settled(weights, [torch.tensor(0.5), torch.tensor(0.02)], None)
    assert found.tolist() == pytest.approx([1.0, 25.0], rel=0.02)


def test_gradnorm_makes_gradients_equal_and_keeps_the_sum() -> None:
    weights = LearnedWeights("gradnorm", {"pixel": 5.0, "threshold": 10.0, "dice": 1.0}, 0, CPU)
    norms = torch.tensor([2.0, 0.5, 1.0])
    found = settled(weights, [torch.tensor(1.0)] * 3, list(norms))
    assert float(found.sum()) == pytest.approx(16)
    assert (found * norms).tolist() == pytest.approx([16 / 3.5] * 3, rel=0.06)


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm"])
def test_a_batch_that_has_nothing_of_a_term_teaches_nothing_of_it(method: str) -> None:
    """A page without text: the terms are 0, and so are the gradients."""
    weights = LearnedWeights(method, {"pixel": 5.0, "dice": 1.0}, 1.5, CPU)  # type: ignore[arg-type]
    zero = torch.tensor(0.0)
    norms = {"pixel": zero, "dice": zero} if method == "gradnorm" else None
    weights.learn({"pixel": zero, "dice": zero}, lambda value: value, norms)
    assert [float(log.grad) for log in weights.logs.values() if log.grad is not None] == [0, 0]
    assert [float(first) for first in weights.first.values()] == [0, 0]
