"""Where trials and pictures run: processes forked from a server that has torch and smp loaded.

This module loads neither itself, so that the server can do it while its user still loads them.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["search.work.child"])


def warm_up() -> None:
    """Start the server, where it does not run yet; the first process need not wait for it then."""
    forkserver.ensure_running()
