"""Text files: those that a study names, as a stranger may have written it, and passwords'."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from spaces.errors import InputError


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


def only_line(file: Path, source: str) -> str:
    """Return the line that a password's file holds, or "" where it is empty.

    Args:
        source: what named the file, for messages, which show nothing of what is in it.

    Raises:
        InputError: it cannot be read, or holds more than one line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{source}: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: {file} must be UTF-8 text") from None
    if len(lines) > 1:
        raise InputError(f"{source}: {file} must hold one line, but has {len(lines)}")
    return lines[0] if lines else ""
