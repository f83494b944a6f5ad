"""A trial's log in the dashboard: its end, as text, out of its own folder and no other place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.dashboard.server import make_app
from search.database.store import Store
from search.database.tables import study_table
from search.files.artifacts import Artifacts
from search.files.bucket import Bucket
from search.files.logs import LOG, MOST_BYTES
from search.studies.confirmations import create_confirmation, plan
from search.studies.slots import Result
from search.studies.study import Study
from tests.conftest import HOSTILE
from tests.service.test_dashboard import Client
from tests.service.test_pages import again, client, end, report, study
from tests.statements import Statements

__all__ = ["client", "study"]  # fixtures
PRIVATE = "not for the dashboard"


def path_of(study: Study, number: int = 0) -> str:
    return f"/studies/{study.spec.name}/trials/{number}/log"


def write(folder: Path, study: Study, text: str | bytes, number: int = 0) -> Path:
    """Write a trial's log as its process does; return its path."""
    path = Artifacts(folder).workdir(study, number) / LOG
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)
    return path


def said(client: Client, study: Study, number: int = 0) -> str:
    answer = client("GET", path_of(study, number))
    assert answer.status == 200, answer.body
    return answer.body.decode()


def test_a_log_grows_while_its_trial_runs(client: Client, study: Study, tmp_path: Path) -> None:
    claim = study.slots.claim(study.ask)
    assert claim
    report(study, claim, 0.5)
    assert (
        f'href="{path_of(study)}#end"' in client("GET", f"/studies/{study.spec.name}").body.decode()
    )
    write(tmp_path, study, "")
    assert "Nothing yet." in said(client, study)
    write(tmp_path, study, "epoch 1\r\n")
    before = client("GET", path_of(study))
    assert b">epoch 1\n<" in before.body and b'class="state running"' in before.body
    with Statements.of(study.store) as asked:
        assert again(client, path_of(study), before) == 304
    assert len(asked) == 1
    write(tmp_path, study, "epoch 2\n")
    assert again(client, path_of(study), before) == 200
    assert ">epoch 1\nepoch 2\n<" in said(client, study)
    before = client("GET", path_of(study))
    study.slots.end(claim, Result("COMPLETE", 0.5, "completed", {"epochs": 2}))
    assert again(client, path_of(study), before) == 200
    assert 'class="state complete"' in said(client, study)


def test_a_run_on_a_fresh_seed_has_a_log_too(client: Client, study: Study, tmp_path: Path) -> None:
    number = end(study, 0.5)
    confirmation = create_confirmation(study)
    confirmation.slots.extend(1)
    plan(confirmation, study.trial(number), study.config(study.trial(number)), 7)
    claim = confirmation.slots.claim(confirmation.ask)
    assert claim
    write(tmp_path, confirmation, "on seed 7\n")
    page = said(client, confirmation)
    assert "on seed 7" in page and f'href="/studies/{study.spec.name}"' in page
    confirmation.slots.give_back(claim, counts=False)
    assert 'class="state interrupted"' in said(client, confirmation)
    of_study = client("GET", f"/studies/{study.spec.name}").body.decode()
    assert f'href="/studies/{study.spec.name}%3Aconfirm/trials/0/log#end"' in of_study


def test_of_a_huge_log_the_end_is_read(client: Client, study: Study, tmp_path: Path) -> None:
    end(study, 0.5)
    path = write(tmp_path, study, "")
    os.truncate(path, 5_000_000_000)  # it takes no room
    write(tmp_path, study, "".join(f"line {number:05d}\n" for number in range(10_000)))
    page = said(client, study)
    assert "The last 64 KiB of 5.0 GB." in page
    shown = page.partition('tabindex="0">')[2].partition("<span")[0]
    assert MOST_BYTES - 11 <= len(shown) <= MOST_BYTES
    assert shown.startswith("line 0") and shown.endswith("line 09999\n")


def test_what_a_log_holds_stays_text(
    store: Store, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(study, 0.5)
    url = sa.make_url("postgresql://somebody:sec%40ret@host/db")
    with monkeypatch.context() as patched:
        patched.setattr(store.engine, "url", url)
        client = Client(make_app(store, Artifacts(tmp_path)))
    log = (
        f"{HOSTILE}\n\x1b[31mred\x1b[0m\x07\x9b \xff".encode() + b"\xff\x00 sec@ret sec%40ret\rnext"
    )
    write(tmp_path, study, log)
    page = said(client, study)
    assert HOSTILE not in page and "<script>" not in page.partition("<pre")[2]
    assert "\nred\ufffd\ufffd \u00ff\ufffd\ufffd *** ***\nnext<span" in page


@pytest.mark.parametrize("what", ["file", "trial", "study", "pipe", "folder"])
def test_what_is_no_log_is_not_read(
    client: Client, study: Study, tmp_path: Path, what: str
) -> None:
    end(study, 0.5)
    path = write(tmp_path, study, "")
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-elsewhere") / "a" / path.parent.name
    elsewhere.mkdir(parents=True)
    (elsewhere / LOG).write_text(PRIVATE)
    path.unlink()
    if what == "file":
        path.symlink_to(elsewhere / LOG)
    elif what == "trial":
        path.parent.rmdir()
        path.parent.symlink_to(elsewhere)
    elif what == "study":
        path.parent.rmdir()
        path.parent.parent.rmdir()
        path.parent.parent.symlink_to(elsewhere.parent)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    page = said(client, study)
    assert PRIVATE not in page and "is not shown: it must be a plain file" in page
    assert str(tmp_path) not in page  # where the folder is concerns nobody who reads


def test_a_log_that_is_elsewhere_is_said(client: Client, study: Study, tmp_path: Path) -> None:
    end(study, 0.5)
    page = said(client, study)
    assert f"There is no {study.spec.name}-{study.uid[:8]}/trial-0000/{LOG} in the" in page
    assert "a folder of another machine" in page
    bucket: Any = Bucket("bucket", "", None)
    client = Client(make_app(study.store, Artifacts(tmp_path, bucket)))
    assert "logs are not copied into the bucket" in said(client, study)
    write(tmp_path, study, "trained here\n")
    assert "trained here" in said(client, study)


@pytest.mark.parametrize("number", ["9", "-1", "00", "x", "1234567890", "%D9%A3", "0/.."])
def test_a_trial_that_is_none_has_no_log(client: Client, study: Study, number: str) -> None:
    end(study, 0.5)
    answer = client("GET", f"/studies/{study.spec.name}/trials/{number}/log")
    assert answer.status == 404
    if number == "9":
        assert f"Study {study.spec.name} has no trial 9".encode() in answer.body


@pytest.mark.parametrize("name", ["..", "%2E%2E", "a%2F..%2Fb", "%3Cb%3E", "no-such"])
def test_a_study_that_is_none_has_no_log(client: Client, study: Study, name: str) -> None:
    end(study, 0.5)
    answer = client("GET", f"/studies/{name}/trials/0/log")
    assert answer.status == 404 and b"<b>" not in answer.body
    near = client("GET", f"/studies/{study.spec.name}x/trials/0/log")
    assert near.status == 404 and f"did you mean {study.spec.name}?".encode() in near.body


def test_a_uid_out_of_the_store_leads_nowhere_else(
    client: Client, study: Study, tmp_path: Path
) -> None:
    end(study, 0.5)
    (tmp_path / "b" / "trial-0000").mkdir(parents=True)
    (tmp_path / "b" / "trial-0000" / LOG).write_text(PRIVATE)
    (tmp_path / f"{study.spec.name}-a").mkdir()
    for uid in ("a/../b", "/etc", "..", "a/\\b"):
        with study.store.engine.begin() as connection:
            connection.execute(sa.update(study_table).values(uid=uid))
        page = said(client, study)
        assert PRIVATE not in page and ("is not shown" in page or "There is no" in page), uid
