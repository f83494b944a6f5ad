"""Which software a result came from."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess

PACKAGES = (
    "segtune",
    "torch",
    "torchvision",
    "segmentation-models-pytorch",
    "timm",
    "optuna",
    "numpy",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the folder that the user works in, or None outside of a repository."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
