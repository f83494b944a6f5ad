"""What a job's command prints, as it is stored: plain text, bounded, without passwords."""

from __future__ import annotations

import codecs
import io
from collections import deque
from collections.abc import Mapping

from search.files.logs import printable

MOST_LINES, MOST_BYTES = 2000, 256 * 1024
LONGEST = 2000  # characters of a line; the rest of it becomes a further one


class JobLog:
    """The first and the last lines; a line between them says how many are left out.

    Args:
        replaced: {text: what stands in its place}.
    """

    def __init__(self, replaced: Mapping[str, str]) -> None:
        self._replaced = dict(sorted(replaced.items(), key=lambda pair: -len(pair[0])))
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._decode = io.IncrementalNewlineDecoder(utf8, translate=True).decode
        self._begun = ""
        self._head, self._tail = _Part(), _Part()
        self._full = False  # the head
        self._left_out = 0
        self.changed = False

    def hear(self, data: bytes) -> None:
        """Take up what was printed next."""
        *lines, self._begun = (self._begun + self._decode(data)).split("\n")
        for line in lines:
            self.say(line)
        while len(self._begun) > LONGEST:
            self.say(self._begun[:LONGEST])
            self._begun = self._begun[LONGEST:]

    def say(self, line: str) -> None:
        """Add a whole line."""
        for text, other in self._replaced.items():
            line = line.replace(text, other)
        line = printable(line)
        for start in range(0, max(1, len(line)), LONGEST):
            self._add(line[start : start + LONGEST])
        self.changed = True

    def close(self) -> None:
        """Nothing more is printed: what has no line's end is a line too."""
        if self._begun:
            self.say(self._begun)
            self._begun = ""

    def text(self) -> str:
        """All lines; from now on nothing has changed."""
        self.changed = False
        more = [f"... {self._left_out} lines are left out ..."] if self._left_out else []
        return "\n".join([*self._head.lines, *more, *self._tail.lines])

    def _add(self, line: str) -> None:
        self._full = self._full or not self._head.fits(line)
        part = self._tail if self._full else self._head
        part.add(line)
        while self._tail.too_large:
            self._tail.drop()
            self._left_out += 1


class _Part:
    """Half of the lines, and how many bytes they are."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque()
        self.size = 0

    def fits(self, line: str) -> bool:
        return len(self.lines) < MOST_LINES // 2 and self.size + _size(line) <= MOST_BYTES // 2

    def add(self, line: str) -> None:
        self.lines.append(line)
        self.size += _size(line)

    def drop(self) -> None:
        self.size -= _size(self.lines.popleft())

    @property
    def too_large(self) -> bool:
        return len(self.lines) > MOST_LINES // 2 or self.size > MOST_BYTES // 2


def _size(line: str) -> int:
    return len(line.encode()) + 1
