"""What the host learns of a device's numbers, without holding up what computes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class ToHost:
    """Tensors on their way to the host, which may do something else meanwhile."""

    def __init__(self, *tensors: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._tensors = tensors
        if tensors[0].device.type == "cuda":
            self._tensors = tuple(
                torch.empty_like(one, device="cpu", pin_memory=True).copy_(one, non_blocking=True)
                for one in tensors
            )
            self._copied = torch.cuda.Event()
            self._copied.record()

    @property
    def arrived(self) -> bool:
        """Whether `wait` returns at once."""
        return self._copied is None or self._copied.query()

    def wait(self) -> tuple[Tensor, ...]:
        """The tensors on the host, once all of them are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensors


class Snapshot:
    """A tree of tensors as it is now: a GPU's are copied to the host, a CPU's are the very same."""

    def __init__(self, tree: Any) -> None:
        self._tensors: list[Tensor] = []
        self._tree = self._without(tree)
        self._copies = ToHost(*self._tensors) if self._tensors else None

    def wait(self) -> Any:
        """The tree with its tensors on the host."""
        return self._with(self._tree, () if self._copies is None else self._copies.wait())

    def _without(self, tree: Any) -> Any:
        """The tree with a place in `_tensors` for each tensor of a GPU."""
        if isinstance(tree, Tensor) and tree.device.type == "cuda":
            self._tensors.append(tree.detach())
            return _Place(len(self._tensors) - 1)
        return _mapped(tree, self._without)

    def _with(self, tree: Any, tensors: tuple[Tensor, ...]) -> Any:
        if isinstance(tree, _Place):
            return tensors[tree.index]
        return _mapped(tree, lambda branch: self._with(branch, tensors))


@dataclass(frozen=True)
class _Place:
    index: int


def _mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """The tree with a function of each branch; anything but a dict, list or tuple is a leaf."""
    if isinstance(tree, dict):
        return {key: function(branch) for key, branch in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(function(branch) for branch in tree)
    return tree


class FiniteWatch:
    """Looks at a running sum without waiting for the device: a GPU's at an earlier state."""

    def __init__(self) -> None:
        self._sent: ToHost | None = None

    def look(self, total: Tensor) -> bool:
        """Tell whether the sum was finite when last heard of; once it is not, it stays so."""
        if total.device.type == "cpu":
            return bool(total.isfinite())
        if self._sent is not None and not self._sent.arrived:
            return True
        finite = self._sent is None or bool(self._sent.wait()[0])
        self._sent = ToHost(total.isfinite())
        return finite


class EpochSums:
    """Loss parts and gradient norms of an epoch's steps.

    Args:
        scaled: by a gradient scaler (fp16), which skips steps that overflow. Then only finite
            losses count, and only the norms of steps that were taken.

    Attributes:
        losses: {part: its mean}, after `close`.
        norms: (steps taken,) of the gradient, on the host, after `close`.
    """

    def __init__(self, *, scaled: bool) -> None:
        self.scaled = scaled
        self.steps = 0
        self.losses: dict[str, float] = {}
        self.norms = torch.zeros(0)
        self._counted = torch.zeros(())  # steps whose loss was finite, where it is not all of them
        self._sums: dict[str, Tensor] = {}
        self._norms: list[Tensor] = []
        self._watch = FiniteWatch()

    def add(self, parts: Mapping[str, Tensor], norm: Tensor) -> None:
        """Add a step: () each, on the device."""
        self.steps += 1
        if self.scaled:
            finite = parts["total"].isfinite()
            parts = {name: torch.where(finite, part, 0.0) for name, part in parts.items()}
            self._counted = self._counted + finite
        self._sums = {name: self._sums.get(name, 0.0) + part for name, part in parts.items()}
        self._norms.append(norm)

    def look(self) -> bool:
        """Tell whether the mean loss was finite when last heard of: no wait."""
        total = self._sums["total"]
        return self._watch.look(total / self._counted if self.scaled else total)

    def close(self) -> bool:
        """Bring all of it to the host, the one wait of an epoch; tell whether it is finite."""
        counted = [self._counted] if self.scaled else []
        host = torch.stack([*self._sums.values(), *counted, *self._norms]).float().cpu()
        sums, norms = host[: len(self._sums)], host[len(host) - self.steps :]
        steps = float(host[len(sums)]) if self.scaled else self.steps
        self.losses = {
            name: total / steps if steps else math.nan
            for name, total in zip(self._sums, sums.tolist(), strict=True)
        }
        self.norms = norms[norms.isfinite()] if self.scaled else norms
        whole = len(self.norms) > 0 and bool(self.norms.isfinite().all())
        return whole and math.isfinite(self.losses["total"])
