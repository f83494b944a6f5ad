"""A stopping rule of the field: one epoch for all, the rest for those that did best in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from search.stopping.replay import NEW, WAIT, Run, Unpruned
from search.stopping.rules import Verdict


@dataclass
class TopK(Unpruned):
    """Batches of runs of one epoch each; the best `keep` of each batch are then trained in full."""

    batch: int = 16
    keep: int = 4
    begun: int = 0
    waiting: list[Run] = field(default_factory=list)
    chosen: list[Run] = field(default_factory=list)
    out: int = 0
    """Runs that are in training now."""

    def next(self, can_begin: bool) -> Run | str:
        if self.chosen:
            self.out += 1
            return self.chosen.pop(0)
        if self.begun < self.batch and can_begin:
            self.begun += 1
            self.out += 1
            return NEW
        if not self.out and self.waiting:  # the batch is complete
            self.waiting.sort(key=lambda run: -(run.curve.best_by(1) or 0.0))
            self.chosen, self.waiting, self.begun = self.waiting[: self.keep], [], 0
            return self.next(can_begin)
        if not self.out and can_begin:
            self.begun = 0
            return self.next(can_begin)
        return WAIT

    def epoch_ended(self, run: Run) -> Verdict:
        if run.epoch != 1:
            return Verdict.GO
        self.out -= 1
        self.waiting.append(run)
        return Verdict.PAUSE

    def run_ended(self, run: Run) -> None:
        self.out -= 1
