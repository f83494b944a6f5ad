"""Extend, Confirm and Delete in the browser: whose study it is asks for them, and nobody else."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from search.dashboard.server import make_app
from search.database.audit import deeds
from search.database.sessions import new_token
from search.database.tables import AFTER
from search.delete import delete_study
from search.files.artifacts import Artifacts
from search.studies.confirmations import create_confirmation
from search.studies.job_kinds import command
from search.studies.job_runs import claim, end
from search.studies.jobs import ENDED, ask, find, latest
from search.studies.limits import close
from search.studies.owners import LAUNCHED_BY
from search.studies.slots import Result
from search.studies.study import Study
from spaces.errors import InputError
from spaces.sections import ConfirmSpec
from tests.browsing import Client
from tests.conftest import HOSTILE
from tests.service.test_actions import NAME, Desk, form_token
from tests.service.test_actions import study as study
from tests.service.test_take_away import OWNER, send, text
from tests.service.test_take_away import artifacts as artifacts
from tests.service.test_take_away import desk as desk

FIELDS = {
    "extend": {"trials": "7"},
    "confirm": {"top": "1", "seeds": "3"},
    "delete": {"name": NAME},
}
WORDS = {
    "extend": "resume --trials 7",
    "confirm": "confirm --top 1 --seeds 3",
    "delete": "delete",
}


@pytest.fixture
def of_max(desk: Desk) -> Desk:
    """Whose study a member has launched in a browser."""
    storage = desk.study.store.storage
    storage.set_study_user_attr(desk.study.study_id, LAUNCHED_BY, "max")
    return desk


def path(what: str) -> str:
    return f"/studies/{NAME}/{what}"


def offered(client: Client) -> list[str]:
    """What the study's page leads to."""
    body = client("GET", f"/studies/{NAME}").body.decode()
    return [what for what in ("stop", *FIELDS) if f'href="{path(what)}"' in body]


def test_whose_study_it_is_and_owners_ask_for_it(of_max: Desk) -> None:
    store = of_max.study.store
    for who in ("max", "olga"):
        client = of_max.client(who)
        for what, words in WORDS.items():
            answer = send(client, path(what), **FIELDS[what])
            assert answer.status == 303, answer.body
            job = latest(store)[0]
            assert answer.header("Location") == f"/jobs/{job.number}"
            assert (job.asked_by, job.study, job.words) == (who, NAME, words)
            deed = deeds(store)[0]
            assert (deed.who, deed.what, deed.study) == (who, words, NAME)


def test_a_form_says_what_there_is(of_max: Desk) -> None:
    max_, study = of_max.client("max"), of_max.study
    assert "It has 3 now" in text(max_("GET", path("extend")))
    assert "The study roads goes with all of its 3 trials, their" in text(
        max_("GET", path("delete"))
    )
    for own in (None, ConfirmSpec(top=5, seeds=4)):
        study.take_settings(study.spec.model_copy(update={"confirm": own}))
        asked, has = max_("GET", path("confirm")).body.decode(), own or ConfirmSpec()
        assert f'name="top" value="{has.top}"' in asked
        assert f'name="seeds" value="{has.seeds}"' in asked
    send(max_, path("confirm"), top="", seeds="")  # as the study has it
    assert latest(study.store)[0].words == "confirm"
    create_confirmation(study)
    assert "the runs beside it" in text(max_("GET", path("delete")))


def test_each_is_offered_where_it_makes_sense_and_to_whose_study_it_is(of_max: Desk) -> None:
    max_, study = of_max.client("max"), of_max.study
    assert offered(max_) == ["stop", "extend", "delete"]
    trial = study.slots.claim(study.ask)
    assert trial is not None and offered(max_) == ["stop", "extend"]
    assert study.slots.end(trial, Result("COMPLETE", 0.5, "completed", {}))
    assert offered(max_) == ["stop", "extend", "delete"]  # two are open
    close(study.store, study.study_id, AFTER)
    assert offered(max_) == ["extend", "confirm", "delete"]
    confirmation = create_confirmation(study)
    confirmation.slots.extend(1)
    run = confirmation.slots.claim(lambda *given: study.trials()[0].number)
    assert run is not None and offered(max_) == ["extend", "confirm"]
    assert offered(of_max.client("olga")) == ["extend", "confirm"]
    for other in ("mia", "ray"):
        assert offered(of_max.client(other)) == []


@pytest.mark.parametrize("who", [None, "ray", "mia", "program"])
def test_nobody_else_asks_for_it(of_max: Desk, who: str | None) -> None:
    client, headers = of_max.client(None if who == "program" else who), {}
    tokens = ["", "0" * 64]
    if who == "program":  # of who launched the study: it was given no form
        headers = {"Authorization": f"Bearer {new_token(of_max.study.store, 'max', 'ci', 'test')}"}
        tokens.append(form_token(of_max.client("max"), path("delete")))
    for what, fields in FIELDS.items():
        for token in tokens:
            body = urlencode({"token": token, **fields}).encode()
            answer = client("POST", path(what), body, **headers)
            assert answer.status == (401 if who is None else 403), (what, answer.body)
        if who == "mia":
            assert "roads is another's; an owner, and who has launched it" in text(answer)
        if who != "program":
            asked = client("GET", path(what))
            assert asked.status == answer.status and b'name="token"' not in asked.body
    assert latest(of_max.study.store) == []
    assert all(deed.study is None for deed in deeds(of_max.study.store))


def test_a_form_of_another_session_or_site_asks_for_nothing(of_max: Desk) -> None:
    max_, olga = of_max.client("max"), of_max.client("olga")
    token, elsewhere = form_token(max_, path("delete")), "https://elsewhere.example"
    for what, fields in FIELDS.items():
        body = urlencode({"token": token, **fields}).encode()
        for given in ("", "0" * 64, form_token(olga, path(what)), token[:-1]):
            assert send(max_, path(what), token=given, **fields).status == 403, given
        assert max_("POST", path(what), body, Origin=elsewhere).status == 403
        assert max_("POST", path(what), body, Referer=f"{elsewhere}/studies").status == 403
    max_.sign_in(name="max")  # another session: the page that is still open is old
    for what, fields in FIELDS.items():
        assert send(max_, path(what), token=token, **fields).status == 403
    assert latest(of_max.study.store) == []


BAD = [
    ("POST", path("extend"), "", 400, "Trials in all must be a number, as in 3, but got ''"),
    ("POST", path("extend"), "trials=-7", 400, "must be a number"),
    ("POST", path("extend"), "trials=7;ls", 400, "must be a number"),
    ("POST", path("extend"), "trials=%D9%A7", 400, "must be a number"),  # of another script
    ("POST", path("extend"), "trials=0", 400, "trials: must be greater than or equal to 1"),
    ("POST", path("extend"), "trials=100001", 400, "trials: must be less than or equal to"),
    ("POST", path("extend"), "trials=9999999999", 400, "must be a number"),
    ("POST", path("extend"), "trials=7&x=" + 20_000 * "x", 400, "at most 16384 bytes"),
    ("POST", path("extend"), 9 * "trials=7&", 400, "The form must be"),
    ("POST", path("confirm"), "top=0&seeds=2", 400, "top: must be greater than or equal to 1"),
    ("POST", path("confirm"), "top=2&seeds=21", 400, "seeds: must be less than or equal to 20"),
    ("POST", path("confirm"), "top=2&seeds=two", 400, "or empty for what the study has"),
    ("POST", path("delete"), "", 400, "the name must be typed as it is, roads, but got ''"),
    ("POST", path("delete"), "name=road", 400, "Nothing is deleted"),
    ("POST", path("delete"), "name=Roads", 400, "Nothing is deleted"),
    ("POST", path("delete"), "name=roads+", 400, "Nothing is deleted"),
    ("POST", path("delete"), "name=road&name=roads", 400, "Nothing is deleted"),
    ("POST", path("delete"), urlencode({"name": HOSTILE}), 400, "Nothing is deleted"),
    ("PUT", path("delete"), "name=roads", 405, ""),
    ("DELETE", path("delete"), "", 405, ""),
    ("DELETE", "/studies/roads", "", 405, ""),
    ("PUT", path("extend"), "trials=7", 405, ""),
    ("GET", "/studies/road/delete", "", 404, "did you mean roads?"),
    ("POST", "/studies/road/delete", "name=road", 404, "did you mean roads?"),
    ("POST", "/studies/roads:confirm/delete", "name=roads:confirm", 404, ""),
    ("GET", "/studies/roads:confirm/confirm", "", 404, ""),
    ("POST", "/studies/roads:confirm/extend", "trials=7", 404, ""),
    ("POST", "/studies/roads:finish/delete", "name=roads:finish", 404, ""),
    ("GET", "/studies/--yes/delete", "", 404, ""),
    ("POST", "/studies/..%2F..%2Fetc/delete", "name=..", 404, ""),
]  # fmt: skip


def test_what_cannot_be_asked_for_is_refused(desk: Desk) -> None:
    create_confirmation(desk.study)
    olga = desk.client("olga")
    token = form_token(olga, path("delete"))
    for method, where, fields, status, says in BAD:
        body = f"token={token}&{fields}" if method == "POST" else fields
        answer = olga(method, where, body.encode())
        assert answer.status == status and says in text(answer), (where, fields, answer.body)
        assert HOSTILE.encode() not in answer.body
    assert latest(desk.study.store) == []


def test_a_dashboard_that_is_for_reading_asks_for_none_and_one_without_names_for_all(
    study: Study, artifacts: Artifacts
) -> None:
    reads = Client(make_app(study.store, artifacts))
    assert offered(reads) == []
    for what, fields in FIELDS.items():
        refused = reads("GET", path(what))
        assert refused.status == 403 and b"--allow-writes" in refused.body
        assert send(reads, path(what), token="", **fields).status == 403
    assert latest(study.store) == []
    writes = Client(make_app(study.store, artifacts, allow_writes=True))
    assert offered(writes) == ["stop", "extend", "delete"]
    for what, fields in FIELDS.items():
        assert send(writes, path(what), **fields).status == 303
    assert [job.words for job in latest(study.store)[::-1]] == list(WORDS.values())
    assert deeds(study.store) == []


def test_after_a_deletion_its_job_can_be_read_and_the_study_is_not_there(
    of_max: Desk, artifacts: Artifacts
) -> None:
    """Neither it, begun again, nor another that waits could delete the next study of that name."""
    max_, store = of_max.client("max"), of_max.study.store
    again = ask(store, "export", "{}", NAME, by="max")
    kept = claim(store, OWNER)
    assert kept is not None and end(store, kept, ENDED, 0, "")
    assert send(max_, path("delete"), name=NAME).status == 303
    late = ask(store, "delete", "{}", NAME, by="max")
    job = claim(store, OWNER)
    assert job is not None and job.words == "delete"
    assert delete_study(of_max.study, artifacts) == []
    left = find(store, job.number)
    assert left is not None and left.study is None
    with pytest.raises(InputError, match="delete must name a study"):
        command(left.kind, left.arguments, left.study, "", "")
    assert end(store, job, ENDED, 0, "deleted study roads")
    shown = text(max_("GET", f"/jobs/{job.number}"))
    assert "deleted study roads" in shown and "ended" in shown and "no longer kept" not in shown
    assert b"/studies/roads" not in max_("GET", f"/jobs/{job.number}").body
    assert [one.number for one in latest(store)] == [job.number]
    for gone in (f"/studies/{NAME}", path("delete"), f"/jobs/{again}", f"/jobs/{late}"):
        assert max_("GET", gone).status == 404, gone
