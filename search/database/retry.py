"""Waiting for a database that is away: which errors mean that, and calls that try again."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import TypeVar

import optuna
import sqlalchemy as sa

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds

T = TypeVar("T")


def is_away(error: BaseException) -> bool:
    """Tell whether an error means that the store cannot be reached now, or has dropped us."""
    if isinstance(error, optuna.exceptions.StorageInternalError):  # Optuna hides the driver's own
        cause = error.__cause__ or error.__context__
        return cause is None or is_away(cause)
    if isinstance(error, sa.exc.DBAPIError):
        return error.connection_invalidated or isinstance(
            error, sa.exc.OperationalError | sa.exc.InterfaceError
        )
    return isinstance(error, sa.exc.TimeoutError | sa.exc.PendingRollbackError)


class Backoff:
    """Delays that double up to a limit, each shortened at random so that workers spread out."""

    def __init__(self) -> None:
        self.delay = FIRST_DELAY

    def next(self) -> float:
        """Return the next delay in seconds."""
        delay = self.delay * random.uniform(0.5, 1.0)
        self.delay = min(2 * self.delay, LONGEST_DELAY)
        return delay


def until_it_answers(
    call: Callable[[], T],
    *,
    give_up: Callable[[], bool] = lambda: False,
    patience: float = math.inf,
    on_wait: Callable[[BaseException], None] = lambda error: None,
) -> T:
    """Return what `call` returns, calling again for as long as the store is away.

    Args:
        call: must be idempotent: its last try may have been carried out though its answer was lost.
        give_up: asked before each further try; true raises the error.
        patience: seconds after which the error is raised.
        on_wait: told each error that is waited out.
    """
    began, backoff = time.monotonic(), Backoff()
    while True:
        try:
            return call()
        except Exception as error:
            if not is_away(error) or give_up() or time.monotonic() - began > patience:
                raise
            on_wait(error)
        time.sleep(backoff.next())
