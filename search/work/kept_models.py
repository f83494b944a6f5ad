"""Weights of a study's best trials stay on disk and in the bucket; those of all others go."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from search.files.artifacts import Artifacts
from search.files.bucket_copies import Copies
from search.studies.study import Study
from trainers.checkpoint import remove_models


@dataclass
class KeptModels:
    """The weights that this machine, and the bucket, have of one study's trials."""

    study: Study
    artifacts: Artifacts
    copies: Copies | None
    _seen: set[int] = field(default_factory=set)  # ended trials that an earlier call has seen
    _there: set[int] = field(default_factory=set)  # those of them that had a model then

    def keep(self, best: Collection[int], ended: Iterable[int]) -> None:
        """Remove the weights of all ended trials but the best."""
        finished = set(ended)
        self._there |= finished - self._seen
        self._seen = finished
        for number in self._there - set(best):
            folder = self.artifacts.workdir(self.study, number)
            if folder.is_dir():
                remove_models(folder, but=None)
            if self.copies is not None:
                self.copies.forget_models(self.artifacts.key(self.study, number))
            self._there.discard(number)
