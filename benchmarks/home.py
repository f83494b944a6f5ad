"""A home of a benchmark's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_home() -> Iterator[Path]:
    """A temporary folder, with an empty $SEGTUNE_HOME in it until it is removed.

    The embedded server has ended by then: it would else write into a folder that is being removed.
    """
    with tempfile.TemporaryDirectory(prefix="segtune-benchmark-") as name:
        os.environ["SEGTUNE_HOME"] = f"{name}/home"
        try:
            yield Path(name)
        finally:
            _end_server()


def _end_server() -> None:
    from search.database.embedded import start_embedded
    from search.database.store import has_store
    from tests.waiting import until

    if has_store(None):
        server = start_embedded()
        server.leave()
        until(lambda: server.pid() is None)
