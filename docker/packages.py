#!/usr/bin/env python3
"""What segtune needs, from the metadata of what is installed: constraints.txt, docker/LICENSES.txt.

`make constraints` runs it in the project's environment. Names and versions only; a package that is
needed on one kind of machine or Python alone is listed too, as a constraint installs nothing.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import product
from pathlib import Path

from packaging.markers import Environment, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
LICENSES = ROOT / "docker" / "LICENSES.txt"
DASHBOARD = ROOT / "docker" / "dashboard-requirements.txt"
IMAGE_EXTRAS = ("s3", "tensorboard", "wandb", "mlflow")  # docker/Dockerfile installs them too

PYTHONS = ("3.11", "3.12", "3.13")
LINUX = (("Linux", "linux", "x86_64"), ("Linux", "linux", "aarch64"))
MACHINES = (*LINUX, ("Darwin", "darwin", "arm64"))

HEAD = """\
# The packages that segtune's images hold, their versions, and the licences that they say they have.
# Written by `make constraints` from their metadata; the texts are in the images, in each package's
# dist-info folder. `worker`: in the worker's image; `both`: in the dashboard's too. The packages of
# the base images tell theirs in /usr/share/doc/*/copyright. NVIDIA's have terms of their own for
# those who pass an image on.
"""


def main() -> int:
    found, missing = needed(declared(), machines(PYTHONS, MACHINES))
    if missing:
        print(f"not installed, so of no known version: {', '.join(sorted(missing))}; see Makefile")
        return 1
    CONSTRAINTS.write_text("".join(f"{line}\n" for line in pins(found)))
    LICENSES.write_text(HEAD + "".join(f"{line}\n" for line in licences()))
    return 0


def declared() -> list[str]:
    """The requirements of pyproject.toml, with those of every extra."""
    extras = _project()["optional-dependencies"].values()
    lines = [*_project()["dependencies"], *(line for extra in extras for line in extra)]
    return [line for line in lines if Requirement(line).name != "segtune"]


def machines(pythons: Sequence[str], kinds: Sequence[tuple[str, str, str]]) -> list[Environment]:
    """What a requirement's marker can ask about, for each Python on each kind of machine."""
    found = []
    for python, (system, platform, processor) in product(pythons, kinds):
        environment = default_environment()
        environment["python_version"] = python
        environment["python_full_version"] = f"{python}.9"
        environment["platform_system"] = system
        environment["sys_platform"] = platform
        environment["platform_machine"] = processor
        found.append(environment)
    return found


def needed(
    lines: Sequence[str], environments: Sequence[Environment]
) -> tuple[dict[str, Distribution], set[str]]:
    """What these requirements need, and what that needs in turn, on any of the machines.

    Returns:
        {canonical name: what is installed}, and the names of what is not installed.
    """
    found, missing = {}, set()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(line) for line in lines]
    while todo:
        asked = todo.pop()
        name = canonicalize_name(asked.name)
        if (name, frozenset(asked.extras)) in seen:
            continue
        seen.add((name, frozenset(asked.extras)))
        try:
            found[name] = distribution(asked.name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if _applies(requirement, asked.extras, environments):
                todo.append(requirement)
    return found, missing


def pins(found: dict[str, Distribution]) -> list[str]:
    """A line for each, without the build of a version (`+cpu`), which other machines lack."""
    return [
        f"{found[n].metadata['Name']}=={Version(found[n].version).public}" for n in sorted(found)
    ]


def licences() -> Iterator[str]:
    """A line for each package of the images: name, version, image, licence."""
    linux = machines(PYTHONS[:1], LINUX)
    extras = _project()["optional-dependencies"]
    lines = [*_project()["dependencies"], *(line for x in IMAGE_EXTRAS for line in extras[x])]
    shown = [x for x in DASHBOARD.read_text().splitlines() if x and not x.startswith("#")]
    both, _ = needed(shown, linux)
    worker, _ = needed(lines, linux)
    for name, pin in zip(sorted(worker), pins(worker), strict=True):
        yield f"{pin:45} {'both' if name in both else 'worker':7} {licence(worker[name])}"


def licence(installed: Distribution) -> str:
    """What a package's metadata says: an SPDX expression, else classifiers, else free text."""
    expression = installed.metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = installed.metadata.get_all("Classifier") or []
    named = [x.split(" :: ")[-1] for x in classifiers if x.startswith("License :: ")]
    text = (installed.metadata.get("License") or "").strip().splitlines()
    specific = [name for name in named if name != "OSI Approved"]
    return "; ".join(specific) or (text[0] if text else "not said")


def _project() -> dict[str, dict[str, list[str]]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, dict[str, list[str]]] = tomllib.load(file)["project"]
    return project


def _applies(
    requirement: Requirement, extras: set[str], environments: Sequence[Environment]
) -> bool:
    marker = requirement.marker
    return marker is None or any(
        marker.evaluate({**environment, "extra": extra})
        for environment in environments
        for extra in ("", *extras)
    )


if __name__ == "__main__":
    sys.exit(main())
