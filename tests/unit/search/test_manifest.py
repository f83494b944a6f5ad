"""The manifest of an export: damage is refused and named, an edited config is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from search.findings.manifest import MANIFEST, check_export, write_manifest
from spaces.errors import InputError


@pytest.fixture
def export(tmp_path: Path) -> Path:
    for name in ("config.yaml", "provenance.json", "curves.png", "models/fold-1/weights"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"content of {name}")
    write_manifest(tmp_path)
    return tmp_path


def test_what_is_as_it_was_exported_is_silent(export: Path) -> None:
    listed = json.loads((export / MANIFEST).read_text())["files"]
    assert list(listed) == ["config.yaml", "curves.png", "models/fold-1/weights", "provenance.json"]
    (export / "evaluation-val").mkdir()
    (export / "evaluation-val" / "best-1.png").write_text("came later")
    assert check_export(export) == check_export(export, config_alone=True) == []


@pytest.mark.parametrize("name", ["provenance.json", "curves.png", "models/fold-1/weights"])
@pytest.mark.parametrize("damage", [lambda path: path.write_text("other"), Path.unlink])
def test_damage_is_refused_and_named(
    damage: Callable[[Path], object], name: str, export: Path
) -> None:
    damage(export / name)
    with pytest.raises(InputError, match=f"{name} .*export it again"):
        check_export(export)
    assert check_export(export, config_alone=True) == []  # which reads nothing of it


def test_an_edited_config_is_said_and_counts(export: Path) -> None:
    (export / "config.yaml").write_text("edited")
    for config_alone in (False, True):
        (said,) = check_export(export, config_alone=config_alone)
        assert said == f"{export}/config.yaml is not as it was exported; it counts as it is now"


def test_without_a_manifest_it_is_said_that_nothing_can_be_checked(export: Path) -> None:
    (export / MANIFEST).unlink()
    for config_alone in (False, True):
        (said,) = check_export(export, config_alone=config_alone)
        assert "has no manifest.json (exports of earlier versions have none)" in said
    (export / "provenance.json").unlink()  # no export: a config that lies somewhere
    assert check_export(export, config_alone=True) == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": 3}', None])
def test_a_damaged_manifest_is_refused(text: str | None, export: Path) -> None:
    path = export / MANIFEST
    path.write_text(path.read_text().replace("curves", "curved") if text is None else text)
    for config_alone in (False, True):
        with pytest.raises(InputError, match=r"manifest\.json is damaged.*export it again"):
            check_export(export, config_alone=config_alone)


def test_a_manifest_that_names_files_elsewhere_is_refused(export: Path) -> None:
    (export / MANIFEST).write_text(json.dumps({"files": {"../../etc/passwd": "0" * 64}}))
    with pytest.raises(InputError, match="leads out of it"):
        check_export(export)
