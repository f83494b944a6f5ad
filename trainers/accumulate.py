"""One effective batch through the network in micro-batches, with the gradient of the whole batch.

A region loss is no sum over images, so summing micro-batch losses would optimise something else.
Instead: run all micro-batches without a graph, take the loss and its gradient at the logits of the
whole batch, then run each micro-batch again and feed its slice of that gradient (gradient caching,
Gao et al. 2021). Costs one more forward pass, and only where the batch does not fit; a loss that is
a sum over pixels needs no second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainers.losses import SegmentationLoss


def backward(
    run: Callable[[Tensor], Tensor],
    model: nn.Module,
    images: Tensor,
    target: Any,
    loss: Callable[[Tensor, Any], tuple[Tensor, dict[str, Tensor]]],
    micro_batch: int,
    scale: Callable[[Tensor], Tensor],
    smallest: int = 1,
) -> dict[str, Tensor]:
    """Add the gradient of the batch's loss to the parameters; return the loss's detached parts.

    Args:
        run: images (b, 3, H, W) -> logits (b, C, H, W), under autocast.
        images: the whole effective batch.
        target: what the loss calls the batch's target.
        micro_batch: images at once, >= 1.
        scale: the gradient scaler's `scale`.
        smallest: images that the network needs at once in training.
    """
    chunks = split_sizes(len(images), micro_batch, smallest)
    if len(chunks) == 1:
        total, parts = loss(run(images), target)
        if total.requires_grad:
            scale(total).backward()
        return parts
    if isinstance(loss, SegmentationLoss) and loss.separable:
        return _one_pass(run, images, target, loss, chunks, scale)
    device = images.device
    states, outputs = [], []
    with torch.no_grad(), _frozen_statistics(model):
        for part in images.split(chunks):
            states.append(rng_state(device))
            outputs.append(run(part).float())
    logits = torch.cat(outputs).requires_grad_()
    total, parts = loss(logits, target)
    (gradient,) = torch.autograd.grad(scale(total), logits)
    for part, slice_, state in zip(
        images.split(chunks), gradient.split(chunks), states, strict=True
    ):
        set_rng_state(device, state)
        run(part).float().backward(slice_)
    return parts


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


@contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keep the first of two passes from counting twice in batch norm's running statistics."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
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
