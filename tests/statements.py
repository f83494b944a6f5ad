"""What a trial asks of the store, counted; and the same trial in Optuna's own loop.

The counts hold for any trial of as many epochs and parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import optuna
import sqlalchemy as sa

from search.database.store import Store
from tests.scripted import SPACE


class Statements:
    """Counts the statements of engines while it is entered, and the rows that they give.

    Attributes:
        texts: the statements, in order.
        rows: rows returned or changed.
    """

    def __init__(self, *engines: sa.Engine) -> None:
        self.engines = engines
        self.texts: list[str] = []
        self.rows = 0

    @classmethod
    def of(cls, store: Store) -> Self:
        """Of a store: our tables and Optuna's storage each have an engine."""
        return cls(store.engine, store._optuna.engine)

    def __enter__(self) -> Self:
        for engine in self.engines:
            sa.event.listen(engine, "before_cursor_execute", self._heard)
            sa.event.listen(engine, "after_cursor_execute", self._answered)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for engine in self.engines:
            sa.event.remove(engine, "before_cursor_execute", self._heard)
            sa.event.remove(engine, "after_cursor_execute", self._answered)

    def __len__(self) -> int:
        return len(self.texts)

    def _heard(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.texts.append(statement)

    def _answered(self, connection: Any, cursor: Any, *rest: Any) -> None:
        self.rows += max(0, cursor.rowcount)


def stock_trial(study: optuna.Study, metrics: Sequence[float]) -> None:
    """The same trial by the loop that Optuna's documentation shows."""

    def objective(trial: optuna.Trial) -> float:
        for name, dim in SPACE.items():
            if isinstance(dim, list):
                trial.suggest_categorical(name, dim)
            elif isinstance(dim["low"], int):
                trial.suggest_int(name, dim["low"], dim["high"])
            else:
                trial.suggest_float(name, dim["low"], dim["high"], log=dim.get("log", False))
        for step, metric in enumerate(metrics, start=1):
            trial.report(metric, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return max(metrics)

    study.optimize(objective, n_trials=1)
