"""Noticing a loss that is no longer finite, without holding up the device that computes it."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteWatch:
    """Looks at a running sum without waiting for the device: a GPU's at an earlier state."""

    def __init__(self) -> None:
        self.flag: Tensor | None = None  # pinned
        self.copied: torch.cuda.Event | None = None

    def look(self, total: Tensor) -> bool:
        """Tell whether the sum was finite when last heard of; once it is not, it stays so."""
        if total.device.type == "cpu":
            return bool(total.isfinite())
        if self.copied is not None and not self.copied.query():
            return True  # still on its way
        finite = self.flag is None or bool(self.flag)
        self.flag = torch.empty((), dtype=torch.bool, pin_memory=True)
        self.flag.copy_(total.isfinite(), non_blocking=True)
        self.copied = torch.cuda.Event()
        self.copied.record()
        return finite
