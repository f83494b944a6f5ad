"""Where trials and pictures run: processes forked from a server that has torch and smp loaded.

This module loads neither itself, so that the server can do it while its user still loads them.
"""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["search.work.child"])


def warm_up() -> None:
    """Start the server, where it does not run yet; the first process need not wait for it then.

    Neither it nor what is forked from it dies with the terminal: the supervisor tells them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
