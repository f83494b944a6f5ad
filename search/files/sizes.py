"""How much room files take, and how it is said."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def bytes_under(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; 0 where there is none."""
    if not path.is_dir():
        return _size(path)
    return sum(_size(Path(folder) / name) for folder, _, names in os.walk(path) for name in names)


def shown_bytes(count: int) -> str:
    """As in 3.1 GB, 20 MB, 0 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _size(path: Path) -> int:
    with suppress(OSError):  # gone meanwhile
        return path.lstat().st_size
    return 0
