"""New study in the browser: who may write one, what is said of it, and the jobs it becomes."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest

from search.dashboard.pages.new import MAX_BODY, OFFERED
from search.dashboard.server import make_app
from search.database.audit import deeds
from search.database.sessions import new_token
from search.database.store import Store
from search.files.artifacts import Artifacts
from search.studies.heartbeats import Registration
from search.studies.job_kinds import FILE_LENGTH
from search.studies.jobs import DEVICE, FAILED, MOST_OF_USER, Job, ask, find, latest
from search.studies.study import Study
from search.templates import study_file
from tests.browsing import Answer, Client
from tests.conftest import HOSTILE
from tests.service.test_actions import Desk, form_token
from tests.service.test_actions import study as study
from tests.service.test_pages import Cells, page
from tests.service.test_take_away import OWNER, run, text
from tests.service.test_take_away import artifacts as artifacts
from tests.service.test_take_away import desk as desk

NEW = "/new"
FILE = """\
name: lanes
task: segmentation
data:
  train: {images: train/images, masks: train/masks}
  val: {images: val/images, masks: val/masks}
  classes: [road, lane]
space:
  train.epochs: 3
"""


def send(
    client: Client, do: str, file: str = FILE, token: str | None = None, **more: str
) -> Answer:
    """Post the editor as a browser does, with its token where none is given."""
    given = form_token(client, NEW) if token is None else token
    fields = {"token": given, "do": do, "text": file.replace("\n", "\r\n"), **more}
    return client("POST", NEW, urlencode(fields).encode())


def asked(store: Store, answer: Answer) -> Job:
    """The job that an answer leads to."""
    found = re.fullmatch(r"/jobs/(\d+)", answer.header("Location") or "")
    assert answer.status == 303 and found, answer.body
    job = find(store, int(found[1]))
    assert job is not None
    return job


def edited(answer: Answer) -> str:
    """The text in the editor."""
    found = re.search(r"(?s)<textarea[^>]*>\n(.*?)</textarea>", answer.body.decode())
    assert found
    return unescape(found[1])


def offered(answer: Answer) -> list[str]:
    """What a press of a button would put at the caret."""
    tags = Cells(answer.body).tags
    return [a["value"] or "" for t, a in tags if t == "button" and a["type"] == "button"]


def test_a_member_checks_and_launches_a_study(desk: Desk) -> None:
    max_, store = desk.client("max"), desk.study.store
    assert b'<a href="/new"' in max_("GET", "/studies").body
    assert "No runner serves this store now" in text(max_("GET", NEW))
    Registration(store, OWNER, DEVICE).enter()
    assert "No runner serves" not in text(max_("GET", NEW))
    fine = send(max_, "text")
    assert fine.status == 200 and edited(fine) == FILE and latest(store) == []
    assert re.search(r"lanes: segmentation, \d+ settings searched, 30 trials", text(fine))
    job = asked(store, send(max_, "check"))
    assert (job.kind, job.study, job.asked_by) == ("check", "lanes", "max")
    assert json.loads(job.arguments) == {"file": FILE}
    deed = deeds(store)[0]
    assert (deed.who, deed.what, deed.study) == ("max", "check", "lanes")
    shown = max_("GET", f"/jobs/{job.number}")
    assert "lanes: check waiting" in text(shown) and b'value="launch"' not in shown.body
    assert FILE in unescape(shown.body.decode())
    assert b"/studies/lanes" not in shown.body + max_("GET", "/jobs").body  # it is not there yet
    run(store, lines="ok")
    shown = max_("GET", f"/jobs/{job.number}")
    assert b'value="launch"' in shown.body and "no longer kept" not in text(shown)
    back = max_("GET", f"{NEW}?job={job.number}")
    assert edited(back) == FILE
    token = form_token(max_, f"/jobs/{job.number}")
    body = urlencode({"token": token, "do": "launch", "job": job.number}).encode()
    launch = asked(store, max_("POST", NEW, body))
    assert (launch.kind, launch.study) == ("launch", "lanes")
    assert json.loads(launch.arguments) == {"file": FILE}
    assert b"/studies/lanes" not in max_("GET", f"/jobs/{launch.number}").body
    run(store, lines="left to the workers of this store")
    assert b'href="/studies/lanes">Open the study' in max_("GET", f"/jobs/{launch.number}").body
    assert page(max_, "/jobs")[0][1:4] == ["ended", "lanes", "launch"]


def test_what_fails_can_be_mended_and_is_not_launched(desk: Desk) -> None:
    max_, store = desk.client("max"), desk.study.store
    job = asked(store, send(max_, "check"))
    run(store, FAILED, "reading\ndata.train.images: x does not exist (study.yaml line 4)\nover")
    shown = max_("GET", f"/jobs/{job.number}")
    assert b'value="launch"' not in shown.body and f"/new?job={job.number}".encode() in shown.body
    back = max_("GET", f"{NEW}?job={job.number}")
    assert back.status == 200 and edited(back) == FILE and b'data-line="4"' in back.body
    assert "data.train.images: x does not exist (study.yaml line 4)" in text(back)
    other = asked(store, send(max_, "check"))
    run(store, FAILED, "no room")
    assert b"<mark>" not in max_("GET", f"{NEW}?job={other.number}").body


def test_a_mistake_is_shown_at_its_line_and_asks_for_no_job(desk: Desk) -> None:
    max_ = desk.client("max")
    wrong = FILE.replace("train.epochs", "train.epoch")
    for do in ("text", "check", "launch"):
        answer = send(max_, do, wrong)
        assert answer.status == 400 and edited(answer) == wrong
        assert "did you mean train.epochs? (study.yaml line 8)" in text(answer)
        assert b"<mark>  train.epoch: 3</mark>" in answer.body
        assert b'data-line="8"' in answer.body and b'role="alert"' in answer.body
    empty = send(max_, "check", "")
    assert empty.status == 400 and "the file is empty" in text(empty)
    beyond = send(max_, "text", FILE + "x: [")  # the mistake is behind the last line
    assert beyond.status == 400 and b"<mark>" in beyond.body
    taken = send(max_, "launch", FILE.replace("lanes", "roads"))
    assert taken.status == 400 and b"<mark>name: roads</mark>" in taken.body
    assert "a study roads is in this store already" in text(taken)
    assert latest(desk.study.store) == []


def test_what_may_go_on_at_the_caret_is_offered(desk: Desk) -> None:
    max_, begun = desk.client("max"), FILE + "  optim.sched"
    assert offered(send(max_, "text", begun)) == offered(max_("GET", NEW)) == []
    answer = send(max_, "text", begun, at=str(len(begun)))
    assert answer.status == 400 and b'role="alert"' in answer.body  # what is wrong is said too
    assert offered(answer) == ["optim.schedule: "] and "1 word fits here" in text(answer)
    fine = send(max_, "text", at=str(len(FILE)))
    assert fine.status == 200 and len(offered(fine)) == OFFERED
    assert f"the first {OFFERED} are below" in text(fine)
    signs = "# 😀 é\n" + begun  # counted as characters, over lines of any system
    assert offered(send(max_, "text", signs, at=str(len(signs)))) == ["optim.schedule: "]
    assert offered(send(max_, "form", at=str(len(FILE)))) == []


def test_a_caret_outside_of_the_text_is_refused(desk: Desk) -> None:
    max_ = desk.client("max")
    for at in ("", "x", "-1", "1.0", "٣", "9" * 400, str(len(FILE) + 1), HOSTILE):
        answer = send(max_, "text", at=at)
        assert answer.status == 400 and HOSTILE.encode() not in answer.body
        said = f"at must be a place in the text, 0 to {len(FILE)}, but got {at[:40]!r}"
        assert said in text(answer)


def test_nothing_that_a_text_names_is_read_here(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a secret: of the dashboard's machine\n")
    named = FILE.replace("[road, lane]", str(tmp_path / "classes.txt"))
    there, absent = (
        send(desk.client("max"), "text", file)
        for file in (named, named.replace("classes.txt", "absent.t"))
    )
    assert there.status == absent.status == 200 and b"secret" not in there.body
    assert re.sub("absent.t|classes.txt|[0-9a-f]{64}", "", text(there)) == re.sub(
        "absent.t|classes.txt|[0-9a-f]{64}", "", text(absent)
    )


def test_the_editor_begins_with_a_recipe_of_either_task(desk: Desk) -> None:
    max_ = desk.client("max")
    assert edited(max_("GET", NEW)) == study_file("segmentation")
    for task, recipe in (("segmentation", "lanes"), ("text_detection", "receipts")):
        assert edited(max_("GET", f"{NEW}?from={task}/{recipe}")) == study_file(task, recipe)
    for query in ("from=segmentation/receipts", "from=../audit.html", "job=x", "job=0"):
        assert max_("GET", f"{NEW}?{query}").status == 400, query


ROUTES = [("GET", NEW), ("POST", NEW)]


@pytest.mark.parametrize("who", [None, "ray", "program"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_reader_and_a_stranger_write_no_study(
    desk: Desk, who: str | None, method: str, path: str
) -> None:
    headers, client = {}, desk.client("ray" if who == "ray" else None)
    if who == "program":  # a reader's
        headers = {"Authorization": f"Bearer {new_token(desk.study.store, 'ray', 'ci', 'test')}"}
    body = urlencode({"token": 64 * "0", "do": "launch", "text": FILE}).encode()
    answer = client(method, path, body if method == "POST" else b"", **headers)
    assert answer.status == (401 if who is None else 403) and b"<textarea" not in answer.body
    assert latest(desk.study.store) == []
    assert who is None or b'href="/new"' not in client("GET", "/studies", **headers).body


def test_a_form_of_another_session_or_site_asks_for_nothing(desk: Desk) -> None:
    max_, mia = desk.client("max"), desk.client("mia")
    token = form_token(max_, NEW)
    for given in ("", 64 * "0", form_token(mia, NEW)):
        for do in ("text", "launch"):
            assert send(max_, do, token=given).status == 403, given
    body = urlencode({"token": token, "do": "launch", "text": FILE}).encode()
    assert max_("POST", NEW, body, Origin="https://elsewhere.example").status == 403
    program = f"Bearer {new_token(desk.study.store, 'max', 'ci', 'test')}"
    assert desk.client()("POST", NEW, body, Authorization=program).status == 403
    assert latest(desk.study.store) == []


def test_anothers_study_file_is_not_there(desk: Desk) -> None:
    """Neither in the editor nor to be launched."""
    max_, mia, olga, store = *map(desk.client, ("max", "mia", "olga")), desk.study.store
    number = ask(store, "check", json.dumps({"file": FILE}), "lanes", "max")
    run(store)
    other = ask(store, "export", "{}", "roads", "max")
    assert mia("GET", f"{NEW}?job={number}").status == 404
    assert mia("GET", f"/jobs/{number}").status == 404
    assert send(mia, "launch", job=str(number)).status == 404
    assert max_("GET", f"{NEW}?job={other}").status == 404  # it has none
    assert edited(olga("GET", f"{NEW}?job={number}")) == FILE
    assert [job.kind for job in latest(store)] == ["export", "check"]


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [
        ("POST", {"do": "delete"}, 400),
        ("POST", {"text": FILE}, 400),
        ("POST", {"do": "check", "job": "1; ls"}, 400),
        ("POST", {"do": "check", "job": "999"}, 404),
        ("POST", {"do": "check", "text": FILE + "#" * FILE_LENGTH}, 400),
        ("POST", {"do": "check", "text": FILE + "#" * MAX_BODY}, 400),
        ("POST", {"do": "check", "text": FILE, **{f"x{n}": "1" for n in range(19)}}, 400),
        ("POST", {"do": "check", "text": FILE.replace("lanes", "..")}, 400),
        ("POST", {"do": "check", "text": FILE.replace("lanes", "roads:confirm")}, 400),
        ("POST", {"do": "check", "text": FILE_LENGTH * "["}, 400),
        ("PUT", {"do": "check", "text": FILE}, 405),
        ("DELETE", {}, 405),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    desk: Desk, method: str, body: dict[str, str], status: int
) -> None:
    olga = desk.client("olga")
    sent = urlencode({"token": form_token(olga, NEW), **body}).encode()
    assert olga(method, NEW, sent).status == status
    assert latest(desk.study.store) == []


def test_a_file_of_the_largest_size_is_taken(desk: Desk) -> None:
    file = FILE + "# a comment: {of}, [many] lines\n" * 2000
    file += "#" * (FILE_LENGTH - len(file))
    job = asked(desk.study.store, send(desk.client("max"), "check", file))
    assert json.loads(job.arguments) == {"file": file}


def test_too_many_jobs_are_refused_and_the_text_stays(desk: Desk) -> None:
    max_ = desk.client("max")
    for _ in range(MOST_OF_USER):
        send(max_, "check")
    refused = send(max_, "check")
    assert refused.status == 400 and edited(refused) == FILE
    assert f"{MOST_OF_USER} of your jobs wait already" in text(refused)


def test_markup_in_a_study_file_stays_text(desk: Desk) -> None:
    max_, store = desk.client("max"), desk.study.store
    hostile = f"{FILE}  {HOSTILE}: 1\n# </textarea>{HOSTILE}\n"
    wrong = send(max_, "text", hostile)
    assert edited(wrong) == hostile
    number = ask(store, "check", json.dumps({"file": hostile}), "lanes", "max")
    run(store)
    for answer in (wrong, max_("GET", f"{NEW}?job={number}"), max_("GET", f"/jobs/{number}")):
        assert HOSTILE.encode() not in answer.body
        tags = Cells(answer.body).tags
        assert [a for t, a in tags if t == "script"] == [{"src": "/pages/page.js", "defer": None}]
        assert not [t for t, a in tags if t in ("style", "iframe", "img") or "style" in a]


def test_a_dashboard_that_is_for_reading_has_no_editor(study: Study, artifacts: Artifacts) -> None:
    number = ask(study.store, "check", json.dumps({"file": FILE}), "lanes")
    run(study.store)
    client = Client(make_app(study.store, artifacts))
    assert client("GET", NEW).status == 403 and send(client, "launch", token="").status == 403
    assert b'href="/new' not in client("GET", "/studies").body
    shown = client("GET", f"/jobs/{number}")
    assert shown.status == 200 and b"/new" not in shown.body and len(latest(study.store)) == 1


def test_without_names_whoever_is_in_may_launch(study: Study, artifacts: Artifacts) -> None:
    client = Client(make_app(study.store, artifacts, allow_writes=True))
    job = asked(study.store, send(client, "launch"))
    assert (job.kind, job.asked_by) == ("launch", "") and deeds(study.store) == []


def test_some_settings_have_a_form_and_all_others_stay(desk: Desk) -> None:
    max_ = desk.client("max")
    file = FILE + "  model.encoder: {choices: [resnet18]}\nsampler: random\n"
    form = send(max_, "form", file)
    assert form.status == 200 and b'name="name" value="lanes"' in form.body
    assert b'name="encoders"' not in form.body and "change it in the text" in text(form)
    kept = re.search(r'name="text" value="([^"]*)"', form.body.decode())
    assert kept and unescape(kept[1]) == file
    assert edited(send(max_, "write", file, name="lanes", classes="road, lane")) == file
    done = send(max_, "write", file, name="lanes-2", epochs="7", encoders="resnet50")
    assert done.status == 200 and "lanes-2: segmentation" in text(done)
    assert "train.epochs: 7" in edited(done) and "sampler: random" in edited(done)
    assert "resnet50" not in edited(done)  # which the form did not show
    assert edited(send(max_, "back", file, name="x")) == file
    wrong = send(max_, "write", file, epochs=HOSTILE)
    assert wrong.status == 400 and "Epochs: must be a whole number" in text(wrong)
    assert HOSTILE.encode() not in wrong.body and HOSTILE in unescape(wrong.body.decode())
    broken = send(max_, "form", "task: [")
    assert broken.status == 400 and edited(broken) == "task: ["
    beyond = send(max_, "write", file, name="../x")
    assert beyond.status == 400 and b"<mark>name: ../x</mark>" in beyond.body
    assert latest(desk.study.store) == []
