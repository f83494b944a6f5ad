"""One effective batch through the network in micro-batches, with the gradient of the whole batch.

A region loss is no sum over images, so summing micro-batch losses would optimise something else.
Instead: run all micro-batches without a graph, take the loss and its gradient at the logits of the
whole batch, then run each micro-batch again and feed its slice of that gradient (gradient caching,
Gao et al. 2021). Costs one more forward pass, and only where the batch does not fit; a loss that is
a sum over pixels needs no second pass.

A loss that learns the weights of its terms gets what it learns from here, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.losses import SegmentationLoss
from trainers.weighting import Loss


def backward(
    run: Callable[[Tensor], Tensor],
    model: nn.Module,
    images: Tensor,
    target: Any,
    loss: Loss,
    micro_batch: int,
    scale: Callable[[Tensor], Tensor],
    smallest: int = 1,
    shared: Callable[[nn.Module], list[Tensor]] = lambda model: [],
) -> dict[str, Tensor]:
    """Add the gradient of the batch's loss to the parameters, and to the weights that the loss
    learns; return the loss's detached parts.

    Args:
        run: images (b, 3, H, W) -> logits (b, C, H, W), under autocast.
        images: the whole effective batch.
        target: what the loss calls the batch's target.
        micro_batch: images at once, >= 1.
        scale: the gradient scaler's `scale`.
        smallest: images that the network needs at once in training.
        shared: the last weights of the network that all terms of the loss share.
    """
    chunks = split_sizes(len(images), micro_batch, smallest)
    learned = loss.learned if loss.share > 0 else None
    balanced = shared(model) if learned is not None and learned.by_gradients else []
    if len(chunks) == 1 and not balanced:
        terms, parts = loss.terms(run(images), target)
        total = loss.total(terms)
        if total.requires_grad:
            scale(total).backward()
        if learned is not None:
            learned.learn(terms, scale)
        return parts | {"total": total.detach()}
    if isinstance(loss, SegmentationLoss) and loss.separable:
        return _one_pass(run, images, target, loss, chunks, scale)
    device, kept = images.device, len(chunks) == 1  # kept: the first pass is the only one
    states, outputs = [], []
    with contextlib.nullcontext() if kept else _without_graph(model):
        for part in images.split(chunks):
            states.append(rng_state(device))
            outputs.append(run(part).float())
    logits = torch.cat(outputs).detach().requires_grad_()
    terms, parts = loss.terms(logits, target)
    total = loss.total(terms)
    gradients = {"total": _slices(scale(total), logits, chunks)}
    norms = None
    if learned is not None and balanced:
        gradients |= {name: _slices(scale(terms[name]), logits, chunks) for name in learned.logs}
        norms = _Norms(balanced, list(learned.logs))
    for index, (part, state) in enumerate(zip(images.split(chunks), states, strict=True)):
        if not kept:
            set_rng_state(device, state)
        output = outputs[0] if kept else run(part).float()
        if norms is not None:
            norms.add(output, {name: slices[index] for name, slices in gradients.items()})
        output.backward(gradients["total"][index])
    if learned is not None:
        learned.learn(terms, scale, None if norms is None else norms.found(scale))
    return parts | {"total": total.detach()}


def _slices(value: Tensor, logits: Tensor, chunks: list[int]) -> tuple[Tensor, ...]:
    """The gradient of a value at the logits (B, C, H, W), in micro-batches."""
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    return gradient.split(chunks)


class _Norms:
    """Norms of the gradient of each term of a loss at some weights, over all micro-batches."""

    def __init__(self, weights: list[Tensor], names: list[str]) -> None:
        self.weights = weights
        self.sums = {name: [torch.zeros_like(one) for one in weights] for name in names}

    def add(self, output: Tensor, slices: Mapping[str, Tensor]) -> None:
        """Add a micro-batch: its logits, and the gradient of each term at them."""
        for name, sums in self.sums.items():
            found = torch.autograd.grad(output, self.weights, slices[name], retain_graph=True)
            for total, one in zip(sums, found, strict=True):
                total += one

    def found(self, scale: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """{term: norm, ()}, without the scale that the gradients have."""
        unit = scale(torch.ones((), device=self.weights[0].device))
        return {
            name: torch.stack([one.norm() for one in sums]).norm() / unit
            for name, sums in self.sums.items()
        }


def split_sizes(batch: int, micro_batch: int, smallest: int = 1) -> list[int]:
    """Return sizes of at most `micro_batch` that sum to `batch`, as even as possible.

    None is below `smallest` where the batch is not: an odd batch in micro-batches of two has one of
    three, since pooled batch norm refuses a last image that is alone.
    """
    parts = max(1, min(-(-batch // micro_batch), batch // smallest))
    return [batch // parts + (i < batch % parts) for i in range(parts)]


def _one_pass(
    run: Callable[[Tensor], Tensor],
    images: Tensor,
    target: Tensor,
    loss: SegmentationLoss,
    chunks: list[int],
    scale: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The pixel loss alone: each micro-batch adds its sum over the whole batch's weight."""
    weight = loss.pixel_weight(target)
    outputs = []
    for part, truth in zip(images.split(chunks), target.split(chunks), strict=True):
        logits = run(part).float()
        with torch.autocast(images.device.type, enabled=False):
            scale(loss.pixel_sum(logits, truth) / weight).backward()
        outputs.append(logits.detach())
    with torch.no_grad():
        _, parts = loss(torch.cat(outputs), target)
    return parts


@contextlib.contextmanager
def _without_graph(model: nn.Module) -> Iterator[None]:
    """A first of two passes: it must not count twice in batch norm's running statistics."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        with torch.no_grad():
            yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def rng_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_rng_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
