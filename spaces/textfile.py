"""Text files that a study names: plain and bounded, as a stranger may have written the study."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_bytes(path: Path, most: int) -> bytes:
    """Read a plain file of at most `most` bytes.

    Raises:
        OSError: as `open` does; also for a pipe or device, which is not opened, and a larger file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    # non-blocking: it may have become a pipe meanwhile
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        content = file.read(most + 1) or b""
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content
