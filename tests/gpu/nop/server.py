"""A process on the GPU that computes nothing, which forks one more for each call.

So torch is imported once for all tests, and none sees what another has left on the device.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import tempfile
import traceback
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """Serve calls until the other end is closed."""
    import search.launch
    import search.work.service  # noqa: F401  # both for what they import

    connection = Connection(int(sys.argv[1]))
    while True:
        try:
            call = connection.recv()
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            os._exit(_answer(call))
        connection.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _answer(call: dict[str, Any]) -> int:
    """In the forked process: call a function of a module; return the exit code."""
    output = os.open(call["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.update(call["env"])
    os.environ["TMPDIR"] = tempfile.tempdir = call["cwd"]  # which its test removes
    os.chdir(call["cwd"])
    try:
        function = getattr(importlib.import_module(call["module"]), call["name"])
        answer = function(*call["given"])
        with open(call["answer"], "wb") as file:
            pickle.dump(answer, file)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    main()
