"""`segtune doctor`: what this machine has, and what would go wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from search.database.store import open_store
from search.files.artifacts import open_artifacts
from search.files.sizes import bytes_under, shown_bytes
from search.findings.versions import versions
from spaces.errors import InputError
from spaces.paths import cache_dir, home


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    ok: bool
    text: str


def examine(store_url: str | None) -> list[Finding]:
    """Look at packages, devices, disk and store; each finding says whether a study can run."""
    checks: tuple[Callable[[], Finding], ...] = (
        _packages,
        _device,
        _disk,
        lambda: _store(store_url),
    )
    return [check() for check in checks]


def _packages() -> Finding:
    found = versions()
    missing = [name for name, version in found.items() if version == "not installed"]
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    return Finding("packages", not missing, text)


def _device() -> Finding:
    import torch

    from trainers.devices import pick_device
    from trainers.precision import resolve_precision

    try:
        device = pick_device()
    except InputError as error:
        return Finding("device", False, str(error))
    precision = resolve_precision("auto", device)
    if device.type == "cuda":
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        text = f"{', '.join(names)}; {memory:.0f} GiB; trials train in {precision}"
    else:
        text = f"no GPU; trials train on {os.cpu_count()} CPU cores in {precision}"
    return Finding("device", True, text)


def _disk() -> Finding:
    folder = home()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 1e9
    writable = os.access(existing, os.W_OK)
    held = ", ".join(
        f"{name} {shown_bytes(bytes_under(path))}"
        for name, path in (
            ("cache", cache_dir()),
            ("artifacts", open_artifacts(write=False).folder),
            ("all of it", folder),
        )
    )
    text = f"{folder}: {free:.0f} GB free; {held}" + ("" if writable else ", not writable")
    return Finding("disk", writable and free > 5, text)


def _store(url: str | None) -> Finding:
    try:
        store = open_store(url)
    except InputError as error:
        return Finding("store", False, str(error))
    try:
        return Finding("store", True, f"{store.shown} answers; {shown_bytes(store.size())}")
    finally:
        store.close()
