"""The study page's data at 3,000 trials of 100 epochs: optuna-dashboard alone, cached, and ours.

    python -m benchmarks.dashboard [--trials 3000] [--epochs 100] [--to benchmarks/dashboard.md]

The three answer the same request side by side in one run, each from a storage of its own on the
embedded Postgres. Between refreshes a running trial reports and another one ends. Notes and graphs
are in the store, written by the workers' own code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.home import own_home
from benchmarks.report import heading, parser, publish, spread, table

SPEC = """\
name: large
task: segmentation
data:
  train: {{images: data/train/images, masks: data/train/masks}}
  val: {{images: data/val/images, masks: data/val/masks}}
  classes: data/classes.json
space: {{train.epochs: {epochs}}}
use_starting_points: false
budget: {{trials: {trials}}}
"""
REFRESHES = 5


def main() -> None:
    """Make the study, ask for it, print the figures."""
    command = parser(__doc__ or "")
    command.add_argument("--trials", type=int, default=3000)
    command.add_argument("--epochs", type=int, default=100)
    given = command.parse_args()
    with own_home() as folder:
        text = report(measure(folder, given.trials, given.epochs), given.trials, given.epochs)
    publish(text, given.to)


def measure(folder: Path, trials: int, epochs: int) -> dict[str, dict[str, list[float]]]:
    """Return {who: {first: [seconds, bytes], refresh: seconds, refresh_bytes: bytes}}."""
    from optuna.storages import RDBStorage, get_storage
    from optuna_dashboard import wsgi

    from search.dashboard.publish import Publisher
    from search.dashboard.study_page import StudyData
    from search.database.store import open_store
    from search.files.artifacts import Artifacts
    from search.findings.facts import gather
    from search.samples.streets import write_streets
    from search.studies.study import create_or_resume
    from spaces.spec import StudySpec
    from tests.filled import fill

    write_streets(folder / "data", train=2, val=1, size=(32, 32))
    (folder / "study.yaml").write_text(SPEC.format(trials=trials, epochs=epochs))
    store = open_store()
    study = create_or_resume(store, StudySpec.load(folder / "study.yaml"), "f" * 64, trials)
    fill(study, trials, epochs)
    Publisher(study, Artifacts(folder / "artifacts")).refresh(gather(study))
    url = store.engine.url.render_as_string(hide_password=False)
    ours = open_store(url)
    alone = RDBStorage(url)
    cached = get_storage(RDBStorage(url))
    apps = {
        "optuna-dashboard": wsgi(alone),
        "optuna-dashboard, cached storage": wsgi(cached),
        "segtune dashboard": StudyData(wsgi(ours.storage), ours),
    }
    path = f"/api/studies/{study.study_id}"
    found: dict[str, dict[str, list[float]]] = {name: {} for name in apps}
    for name, app in apps.items():
        found[name]["first"] = list(_get(app, path))
    for _ in range(REFRESHES):
        _go_on(study, epochs)
        after = next(t.number for t in study.trials() if not t.state.is_finished())
        for name, app in apps.items():
            cache = getattr(app, "_inmemory_cache", None)
            if cache is not None:  # it would answer with trials that are up to ten seconds old
                cache._trials_last_fetched_at.clear()
            seconds, size = _get(app, path, f"after={after}")
            found[name].setdefault("refresh", []).append(seconds)
            found[name]["refresh_bytes"] = [size]
    for opened in (store, ours):
        opened.close()
    return found


def _go_on(study: Any, epochs: int) -> None:
    """A running trial reports, and another one ends, if more than one is left."""
    from optuna.trial import TrialState

    storage = study.store.storage
    running = [t for t in study.trials() if not t.state.is_finished()]
    trial = running[-1]
    storage.set_trial_intermediate_value(trial._trial_id, max(trial.intermediate_values) + 1, 0.5)
    if len(running) > 1:
        storage.set_trial_user_attr(running[0]._trial_id, "reason", "completed")
        storage.set_trial_state_values(running[0]._trial_id, TrialState.COMPLETE, [0.4])


def _get(app: Callable[..., Any], path: str, query: str = "") -> tuple[float, int]:
    """Seconds and bytes of an answer."""
    import io

    status: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
    }
    began = time.perf_counter()
    body = b"".join(app(environ, lambda code, headers, *rest: status.append(code)))
    seconds = time.perf_counter() - began
    assert status[0].startswith("200"), (status, body[:300])
    return seconds, len(body)


def report(found: dict[str, dict[str, list[float]]], trials: int, epochs: int) -> str:
    """The figures as Markdown."""
    rows = [
        [
            name,
            f"{f['first'][0]:.2f} s, {f['first'][1] / 1e6:.1f} MB",
            f"{spread(f['refresh'], 2, 's')}, {f['refresh_bytes'][0] / 1e3:.0f} kB",
        ]
        for name, f in found.items()
    ]
    return f"""\
{heading(f"The dashboard at {trials:,} trials of {epochs} epochs", "dashboard")}
Answers to the study page's request, embedded Postgres. The three answer side by side in one run; a
refresh is the median of {REFRESHES}, each after a trial has reported and another has ended.

{table(["who answers", "first data", "refresh"], rows)}
"""


if __name__ == "__main__":
    main()
