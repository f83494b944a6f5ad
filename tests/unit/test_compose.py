"""docker-compose.yml and docker/: what the files promise, and test_docker.py cannot see run."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tests.compose import (
    COMPOSE,
    DOCKERFILE,
    OURS,
    ROOT,
    SERVICES,
    words,
)


def test_no_file_holds_a_usable_password() -> None:
    example = (ROOT / ".env.example").read_text()
    for line in example.splitlines():
        if "PASSWORD" in line and not line.startswith("#"):
            variable, _, value = line.partition("=")
            assert variable.endswith("_PASSWORD_FILE") and value.startswith("./secrets/"), line
    for text in (example, COMPOSE.read_text(), DOCKERFILE, (ROOT / ".dockerignore").read_text()):
        assert not re.search(r"(?i)password['\"]?[:=][ ]*['\"]?[^\s\"'$/.{]", text)
        assert not re.search(r"://\w+:[^@\s]+@", text)
    assert {"secrets/", ".env"} <= set((ROOT / ".gitignore").read_text().splitlines())


def test_the_example_names_the_variables_of_the_file_and_their_defaults() -> None:
    lines = [x for x in (ROOT / ".env.example").read_text().splitlines() if x and x[0] != "#"]
    assert dict(line.split("=", 1) for line in lines) == dict(
        re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text())
    )


def test_each_service_has_the_role_and_the_secrets_that_it_needs() -> None:
    role = "dashboard_role_password"
    administrator, worker = (
        ("segtune", {"postgres_password"}),
        ("segtune_worker", {"worker_password"}),
    )
    assert {
        name: (
            urlsplit(SERVICES[name]["environment"]["SEGTUNE_STORE"]).username,
            set(SERVICES[name]["secrets"]),
        )
        for name in OURS
    } == {
        "migrate": ("segtune", {"postgres_password", "worker_password", "jobs_password", role}),
        "admin": administrator,
        **dict.fromkeys(("worker", "launch", "segtune"), worker),
        "jobs": ("segtune_jobs", {"jobs_password"}),
        "dashboard": ("segtune_dashboard", {role, "dashboard_password"}),
    }


def test_images_are_pinned_and_built_once() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", DOCKERFILE, re.M)
    outside = {base for base, _ in stages} - {name for _, name in stages}
    assert outside and all(re.search(r":\d+\.\d+\.\d+-\w+", base) for base in outside), outside
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+", SERVICES["postgres"]["image"])
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


def test_who_needs_the_data_has_them_at_the_same_place_and_read_only() -> None:
    mounts = {
        name: [one for one in SERVICES[name].get("volumes", ()) if isinstance(one, dict)]
        for name in OURS
    }
    having = ("worker", "jobs", "launch", "segtune", "dashboard")
    assert {name for name, found in mounts.items() if found} == set(having)
    for name in having:
        [data] = mounts[name]
        assert (data["target"], data["read_only"]) == ("/data", True), name
    for name in ("jobs", "dashboard"):  # what is looked at here is what its jobs may read
        given = words(name)
        assert given[given.index("--data-root") + 1] == "/data", name


def test_each_worker_sees_every_gpu_and_takes_one() -> None:
    worker = SERVICES["worker"]
    [devices] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices["driver"] == "nvidia" and "gpu" in devices["capabilities"]
    assert devices["count"] == "all"  # a number would give every replica the first ones
    assert "segtune-own-gpu" in words("worker")
    assert not any("deploy" in SERVICES[name] for name in ("launch", "jobs"))  # they train nothing
