"""docker-compose.yml and docker/Dockerfile, read: what tests of both look at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


def _defaults(text: str) -> str:
    """A compose file's text with its variables' defaults: `${NAME:-default}` is all that it has."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(_defaults(COMPOSE.read_text()))["services"]
OURS = [name for name in SERVICES if name != "postgres"]


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
