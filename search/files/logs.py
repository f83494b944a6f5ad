"""What trials and commands have printed: as plain text, and the end of a trial's log."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from spaces.paths import no_link

LOG = "trial.log"  # in a trial's folder
MOST_BYTES = 64 * 1024  # of the end of one that is shown

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")  # colours, moves of a cursor
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Tail:
    """The end of a log.

    Attributes:
        text: its last lines, whole ones.
        size: of all of it, in bytes.
    """

    text: str
    size: int

    @property
    def whole(self) -> bool:
        return self.size <= MOST_BYTES


def printable(text: str) -> str:
    """Take out what a terminal obeys; other control characters become U+FFFD, but for \\t, \\n."""
    return _CONTROLS.sub("\ufffd", _ESCAPES.sub("", text))


def read_tail(path: Path) -> Tail:
    """Read the last MOST_BYTES of a log as plain text.

    Raises:
        OSError: it is not there, or cannot be read.
        InputError: it is no plain file; a link is not followed.
    """
    with open(path, "rb", opener=no_link) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - MOST_BYTES))
        data = file.read(MOST_BYTES)
    if size > MOST_BYTES:
        data = data.partition(b"\n")[2] or data
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return Tail(printable(text), size)
