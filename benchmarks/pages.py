"""The Studies page at 200 studies of 200 trials, beside optuna-dashboard's list alone.

    python -m benchmarks.pages [--studies 200] [--trials 200] [--running 20] [--viewers 50]

Both answer over one embedded Postgres. A poll has the tag of what is shown. Viewers ask every
5 seconds, as the page's script does, and a trial ends every 5 seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.home import own_home
from benchmarks.report import called, heading, parser, publish, spread, table

EPOCHS = 10
SECONDS = 30  # that viewers look
EVERY = 5.0  # seconds between two polls of a viewer, as studies.html says


def main() -> None:
    """Make the studies, ask for the page, print the figures."""
    command = parser(__doc__ or "")
    command.add_argument("--studies", type=int, default=200)
    command.add_argument("--trials", type=int, default=200)
    command.add_argument("--running", type=int, default=20, help="studies with trials that run")
    command.add_argument("--viewers", type=int, default=50)
    given = command.parse_args()
    with own_home() as folder:
        text = report(measure(folder, given), given)
    publish(text, given.to)


def measure(folder: Path, given: Any) -> dict[str, Any]:
    """Return seconds and statements of each kind of request."""
    import sqlalchemy as sa

    from search.dashboard.server import dashboard_app, make_app
    from search.database.store import open_store
    from search.database.tables import RUNNING, slot_table
    from search.files.artifacts import Artifacts
    from search.findings.facts import gather
    from search.studies.catalogue import ANSWER
    from search.studies.slots import Result
    from search.studies.study import create_or_resume
    from tests.filled import fill
    from tests.scripted import make_spec
    from tests.statements import Statements

    trials, viewers = given.trials, given.viewers
    store, answer = open_store(), None
    for number in range(given.studies):
        spec = make_spec(folder, f"study-{number}", trials=trials, sampler="random")
        last = create_or_resume(store, spec, "f" * 64, trials + 1)
        fill(last, trials, EPOCHS)
        answer = answer or gather(last).answer  # as long as any other's
        assert answer is not None
        store.replace_study_attrs(last.study_id, [], {ANSWER: answer.to_json()})
        if number < given.running:
            runs = slot_table.c.study_id == last.study_id, slot_table.c.state == RUNNING
            lease = {"lease_until": store.now() + 3600, "claimed_at": store.now()}
            with store.engine.begin() as connection:
                connection.execute(sa.update(slot_table).where(*runs).values(**lease))
    url = store.engine.url.render_as_string(hide_password=False)
    fresh = open_store(url)
    artifacts = Artifacts(folder / "artifacts")
    now = Now()
    ours = make_app(fresh, artifacts, clock=now)
    alone = dashboard_app(open_store(url), artifacts.shown)
    with Statements.of(fresh) as asked:
        first, _, tag = _get(ours, "/studies")
    found: dict[str, Any] = {"first": [first], "first statements": len(asked)}
    found |= {"polls": [], "shared": [], "changed": [], "alone": []}
    tags = [tag] * viewers
    for poll in range(round(SECONDS * viewers / EVERY)):
        viewer, second = poll % viewers, now()
        now.seconds = poll * EVERY / viewers
        if int(now()) > int(second) and int(now()) % 5 == 0:
            claim = last.slots.claim(last.ask)
            assert claim
            last.slots.end(claim, Result("COMPLETE", 0.5, "completed", {"best_epoch": 1}))
            last.slots.extend(trials + 2 + poll)
        with Statements.of(fresh) as asked:
            seconds, status, tags[viewer] = _get(ours, "/studies", tags[viewer])
        kind = "changed" if status == 200 else "polls" if len(asked) else "shared"
        found[kind].append(seconds)
        most = max(len(asked), found.get(f"{kind} statements", 0))
        found[f"{kind} statements"] = most
        if poll % 5 == 0:
            found["alone"].append(_get(alone, "/api/studies")[0])
    return found


class Now:
    """A clock that shows what it is told."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _get(app: Callable[..., Any], path: str, tag: str = "") -> tuple[float, int, str]:
    """(seconds, status, ETag) of a request."""
    answered: list[Any] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "HTTP_HOST": "localhost",
        "HTTP_ACCEPT_ENCODING": "gzip",
        "HTTP_IF_NONE_MATCH": tag,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
    }
    began = time.perf_counter()
    b"".join(app(environ, lambda status, headers, *rest: answered.extend((status, headers))))
    seconds = time.perf_counter() - began
    return seconds, int(answered[0].split()[0]), dict(answered[1]).get("ETag", "")


def report(found: dict[str, Any], given: Any) -> str:
    """The figures as Markdown."""
    ours = sum(sum(found[kind]) for kind in ("polls", "shared", "changed")) / SECONDS
    alone = sum(found["alone"]) / len(found["alone"]) * given.viewers / EVERY
    rows = [
        [said, spread([1000 * one for one in found[kind]], 0, "ms"), str(found.get(asked, "-"))]
        for said, kind, asked in (
            ("first look after a start", "first", "first statements"),
            ("a poll, nothing new", "polls", "polls statements"),
            ("the same, within a second of another viewer's", "shared", "shared statements"),
            ("a poll, a trial has ended", "changed", "changed statements"),
            ("optuna-dashboard's own list", "alone", ""),
        )
    ]
    title = (
        f"The Studies page at {given.studies} studies of {given.trials} trials, {given.running} of "
        "which run"
    )
    return f"""\
{heading(title, called("pages"))}
{table(["request", "takes", "SQL statements"], rows)}

{given.viewers} viewers who ask every {EVERY:g} s, as the page's script does, keep {ours:.2f} of a \
core busy while a trial ends every 5 s; optuna-dashboard's own list, asked as often, {alone:.2f}. \
All seconds of an answer count, those in which it waits for the database too.
"""


if __name__ == "__main__":
    main()
