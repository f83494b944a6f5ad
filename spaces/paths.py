"""Where segtune keeps its state: one folder, named by $SEGTUNE_HOME."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return $SEGTUNE_HOME, or ~/.segtune where it is not set (not created here)."""
    return Path(os.environ.get("SEGTUNE_HOME") or "~/.segtune").expanduser().resolve()


def cache_dir() -> Path:
    """Return the folder of rebuildable data: decoded images, preflight results, micro-batches."""
    return home() / "cache"


def artifacts_dir(named: str | None = None) -> Path:
    """Return the folder of trial files: `named`, $SEGTUNE_ARTIFACTS, or one in the home."""
    given = named or os.environ.get("SEGTUNE_ARTIFACTS")
    return Path(given).expanduser().resolve() if given else home() / "artifacts"
