"""docker-compose.yml and docker/: what the files promise."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.compose import (
    COMPOSE,
    DOCKERFILE,
    OURS,
    ROOT,
    SERVICES,
    compose,
    image_target,
    listed,
    stage,
    words,
)


def test_only_the_dashboard_is_published_and_on_this_machine_alone() -> None:
    published = {name: s["ports"] for name, s in SERVICES.items() if "ports" in s}
    assert published == {"dashboard": ["127.0.0.1:8080:8080"]}
    assert not any({"network_mode", "privileged", "pid", "ipc"} & set(s) for s in SERVICES.values())


def test_passwords_stand_in_secret_files_only() -> None:
    secrets = compose()["secrets"]
    assert {name: list(secret) for name, secret in secrets.items()} == {
        "postgres_password": ["file"],
        "dashboard_password": ["file"],
    }
    for name, service in SERVICES.items():
        for variable, value in service["environment"].items():
            if "PASSWORD" in variable:
                secret = value.removeprefix("/run/secrets/")
                assert variable.endswith("_FILE") and secret in service["secrets"], (name, variable)
            assert not re.search(r"://[^/@]*:[^/@]*@", value), (name, variable)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"secrets/", ".env"} <= set(ignored)
    for secret in secrets.values():
        assert Path(secret["file"]).parent == Path("secrets")


def test_no_file_holds_a_usable_password() -> None:
    example = (ROOT / ".env.example").read_text()
    for line in example.splitlines():
        if "PASSWORD" in line and not line.startswith("#"):
            variable, _, value = line.partition("=")
            assert variable.endswith("_PASSWORD_FILE") and value.startswith("./secrets/"), line
    for text in (example, COMPOSE.read_text(), DOCKERFILE, (ROOT / ".dockerignore").read_text()):
        assert not re.search(r"(?i)password['\"]?[:=][ ]*['\"]?[^\s\"'$/.{]", text)
        assert not re.search(r"://\w+:[^@\s]+@", text)


def test_the_example_names_the_variables_of_the_file_and_their_defaults() -> None:
    lines = [x for x in (ROOT / ".env.example").read_text().splitlines() if x and x[0] != "#"]
    assert dict(line.split("=", 1) for line in lines) == dict(
        re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text())
    )


def test_images_are_pinned_and_run_without_root() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, re.M)
    outside = {base for base, _ in stages} - {name for _, name in stages}
    assert outside and all(re.search(r":\d+\.\d+\.\d+-\w+", base) for base in outside), outside
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", SERVICES["postgres"]["image"])
    for service in OURS:
        assert SERVICES[service]["image"].startswith("segtune-")
        assert re.search(r"^USER 10001:10001$", stage(image_target(service)), re.M), service
        assert SERVICES[service]["cap_drop"] == ["ALL"]
    for name, service in SERVICES.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
    builders = [s["image"] for s in SERVICES.values() if "build" in s]
    assert len(builders) == len(set(builders))  # two builds of one tag would race
    for service in OURS:
        if "build" not in SERVICES[service]:
            assert SERVICES[service]["pull_policy"] == "never", service


def test_services_are_checked_or_end_by_themselves() -> None:
    for name, service in SERVICES.items():
        if service.get("restart") == "unless-stopped":
            assert service["healthcheck"]["test"][0] == "CMD", name
        else:
            assert name == "migrate" or service["profiles"] == ["tools"], name
    assert SERVICES["migrate"]["restart"] == "no"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in set(OURS) - {"migrate"}:
        waits = SERVICES[name]["depends_on"]["migrate"]["condition"]
        assert waits == "service_completed_successfully", name


def test_workers_scale() -> None:
    worker = SERVICES["worker"]
    assert not {"container_name", "hostname", "ports"} & set(worker)  # each would be had once
    assert worker["init"] is True and worker["stop_grace_period"] == "30s"
    assert SERVICES["launch"]["volumes"] == worker["volumes"]  # paths mean the same in both
    [devices] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices["driver"] == "nvidia" and "gpu" in devices["capabilities"]
    assert devices["count"] == "all"  # a number would give every replica the first ones
    assert "segtune-own-gpu" in words("worker")
    assert "deploy" not in SERVICES["launch"]  # it trains nothing


def test_the_dashboard_cannot_write() -> None:
    dashboard = SERVICES["dashboard"]
    assert dashboard["read_only"] is True and dashboard["volumes"] == ["artifacts:/artifacts:ro"]


def test_volumes_begin_with_the_owner_of_the_image() -> None:
    """A new volume takes the owner of the folder it is mounted on; without one it is root's."""
    made = re.search(r"install --directory --owner=segtune .*\\\n(.*)$", DOCKERFILE, re.M)
    assert made
    for service in OURS:
        for volume in SERVICES[service].get("volumes", []):
            if isinstance(volume, str):
                target = next(part for part in volume.split(":") if part.startswith("/"))
                assert target in made[1].split(), (service, volume)


def test_images_hold_what_they_copy_and_nothing_else() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore and not any(re.match(r"!(secrets|\.env|\.git|tests)", x) for x in ignore)
    kept = {x.removeprefix("!") for x in ignore if x.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M):
        for source in [word for word in line.split() if not word.startswith("--")][:-1]:
            assert (ROOT / source).exists(), source
            assert source in kept or f"{Path(source).parent}/*{Path(source).suffix}" in kept, source


def test_the_dashboard_image_lists_direct_dependencies_with_a_pinned_version() -> None:

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["s3"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in constraints if line}
    assert listed() <= declared and listed() <= pinned


def test_the_workers_image_can_log_to_all_trackers_and_keep_files_in_a_bucket() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    code = re.search(r"RUN python -c '(.*?)'", text)
    assert code is not None
    printed = subprocess.run(
        [sys.executable, "-c", code[1]], cwd=ROOT, check=True, capture_output=True, text=True
    )
    names = {canonicalize_name(Requirement(line).name) for line in printed.stdout.splitlines()}
    assert names > {"torch", "boto3", "tensorboard", "wandb", "mlflow-skinny"}
    assert not names & {"pytest", "moto", "ray", "submitit"}
