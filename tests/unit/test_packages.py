"""docker/packages.py and what it has written: constraints.txt and docker/LICENSES.txt are whole."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()
AGAIN = "make constraints"


def pinned(lines: list[str]) -> dict[str, str]:
    """{canonical name: version} of `name==version` lines."""
    parts = (line.partition("==") for line in lines)
    return {canonicalize_name(name): version for name, _, version in parts}


def packages() -> Any:
    """The script, imported; `docker` is another package's name."""
    spec = importlib.util.spec_from_file_location("packages", ROOT / "docker" / "packages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_package_that_any_extra_needs_is_pinned() -> None:
    """On every Python and machine that is supported; an extra that is not here, by its own name."""
    script = packages()
    found, missing = script.needed(
        script.declared(), script.machines(script.PYTHONS, script.MACHINES)
    )
    assert {"torch", "nvidia-cudnn-cu13", "cleval"} <= {*found, *missing}
    assert {*found, *missing} - set(pinned(CONSTRAINTS)) == set(), AGAIN


def test_constraints_are_names_and_versions_only() -> None:
    """A host, a path or an option in it would be taken from there by everyone who installs."""
    for line in CONSTRAINTS:
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*==[0-9][\w.!]*", line), line
    assert len(pinned(CONSTRAINTS)) == len(CONSTRAINTS)


def test_every_package_of_an_image_is_listed_with_its_licence() -> None:
    lines = (ROOT / "docker" / "LICENSES.txt").read_text().splitlines()
    rows = [line.split(maxsplit=2) for line in lines if not line.startswith("#")]
    assert {image for _, image, _ in rows} == {"worker", "both"}
    listed = pinned([pin for pin, _, _ in rows])
    expected = pinned([line.split()[0] for line in packages().licences()])
    assert set(listed) == set(expected) and "torch" in listed, AGAIN
    assert listed.items() <= pinned(CONSTRAINTS).items(), AGAIN


IMPORTS = """
import sys
from importlib.abc import MetaPathFinder

class Without(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
import search.cli, search.dashboard.server
"""


def test_the_dashboards_image_has_what_the_dashboard_imports() -> None:
    """It starts without all that is not in the image."""
    script = packages()
    lines = [line for line in script.DASHBOARD.read_text().splitlines() if line.strip("# ")]
    there, _ = script.needed(
        [line for line in lines if not line.startswith("#")],
        script.machines(script.PYTHONS, script.LINUX),
    )
    absent = {
        module
        for module, names in packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & {*there, "segtune"}
    }
    assert {"torch", "cv2"} <= absent
    command = [sys.executable, "-c", IMPORTS, *absent]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
