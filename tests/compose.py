"""docker-compose.yml and docker/Dockerfile, read: what tests of both look at."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
REQUIREMENTS = ROOT / "docker" / "dashboard-requirements.txt"


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Put variables into a compose file's text: `${NAME:-default}` is all that ours uses."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: variables.get(m[1]) or m[2], text)


def compose(**variables: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE.read_text(), variables))
    return loaded


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = [name for name in SERVICES if name != "postgres"]


def image_target(service: str) -> str:
    """The Dockerfile's target that a service's image is built from."""
    image = SERVICES[service]["image"]
    builders = [s for s in SERVICES.values() if s["image"] == image and "build" in s]
    [target] = [builder["build"]["target"] for builder in builders]
    return str(target)


def stage(name: str) -> str:
    """A stage of the Dockerfile, without the one that it starts from."""
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    assert found, name
    return found[1]


def words(service: str) -> list[str]:
    """What the engine runs for a service: its entrypoint, or the image's, and its command."""
    found = re.search(r"^ENTRYPOINT (\[.*\])$", stage("base"), re.M)
    assert found
    entrypoint = SERVICES[service].get("entrypoint", json.loads(found[1]))
    return [*entrypoint, *SERVICES[service]["command"]]


def listed() -> set[str]:
    lines = [x for x in REQUIREMENTS.read_text().splitlines() if x and not x.startswith("#")]
    return {canonicalize_name(Requirement(line).name) for line in lines}
