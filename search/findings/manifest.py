"""The SHA-256 of every file of an export, beside them, and what is compared with it later.

It finds damage, and edits that were not meant. Whoever may write the folder may write a manifest
that fits; the store's SHA-256 of the weights is the one to compare with then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spaces.errors import InputError
from trainers.durable import (
    Damaged,
    check_files,
    digests,
    durable,
    file_digest,
    read_json,
    write_json,
)

MANIFEST, CONFIG = "manifest.json", "config.yaml"


def write_manifest(folder: Path) -> None:
    """Write `manifest.json` over all other files of a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    write_json(folder / MANIFEST, {"files": digests(folder, paths)}, indent=1)


def replace_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files of an export anew; what was as the manifest has it is so again afterwards.

    Meanwhile the manifest says nothing of them, so that a kill leaves an export that loads.
    """
    try:
        before = dict(read_json(folder / MANIFEST)["files"])
    except FileNotFoundError:
        before = {}
    whole = [name for name in texts if before.get(name) == file_digest(folder / name)]
    if before:
        others = {name: digest for name, digest in before.items() if name not in whole}
        write_json(folder / MANIFEST, {"files": others}, indent=1)
    for name, text in texts.items():
        with durable(folder / name) as file:
            file.write(text.encode())
    if before:
        after = before | digests(folder, [folder / name for name in whole])
        write_json(folder / MANIFEST, {"files": after}, indent=1)


def as_exported(folder: Path, name: str) -> bool:
    """Whether a file of an export is there, and as the manifest has it."""
    try:
        digest = read_json(folder / MANIFEST)["files"].get(name)
    except FileNotFoundError:
        return False
    path = folder / name
    return digest is not None and path.is_file() and digest == file_digest(path)


def check_export(folder: Path, *, config_alone: bool = False) -> list[str]:
    """Compare the files of an export with its manifest; those that came later are left alone.

    Users edit config.yaml: other paths of the same data, another value to train with. It counts as
    it is now.

    Args:
        config_alone: nothing else is read.

    Returns:
        A sentence each of what the user should know.

    Raises:
        InputError: another file is missing, or is not as it was exported.
    """
    try:
        files = dict(read_json(folder / MANIFEST)["files"])
        config = files.pop(CONFIG, None)
        if not config_alone:
            check_files(folder, files)
    except FileNotFoundError:
        if config_alone and not (folder / "provenance.json").exists():
            return []  # a config that lies somewhere else
        return [
            f"{folder} has no {MANIFEST} (exports of earlier versions have none): its files cannot "
            "be checked"
        ]
    except InputError:
        raise
    except (Damaged, KeyError, TypeError, ValueError) as error:
        said = error if isinstance(error, Damaged) else f"{folder / MANIFEST} is damaged"
        raise InputError(f"{said}; export it again") from None
    if config is not None and file_digest(folder / CONFIG) != config:
        return [f"{folder / CONFIG} is not as it was exported; it counts as it is now"]
    return []
