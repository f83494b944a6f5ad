"""What a trial has printed: the end of its log, where this dashboard can see it."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path

from search.dashboard.forms import Refused
from search.dashboard.pages.frame import HOME, Frame, Request
from search.database.store import Store
from search.database.url import spellings
from search.files.artifacts import Artifacts, trial_key
from search.files.logs import LOG, MOST_BYTES, Tail, read_tail
from search.files.sizes import shown_bytes
from search.studies.catalogue import one_trial
from search.studies.study import study_names
from spaces.errors import InputError, did_you_mean
from spaces.paths import inside
from spaces.spec import BESIDE


class LogPage:
    """Answers GET /studies/NAME/trials/NUMBER/log."""

    def __init__(self, frame: Frame, store: Store, artifacts: Artifacts) -> None:
        self.frame, self.store, self.artifacts = frame, store, artifacts
        self._secrets = spellings(store.engine.url.password)

    def __call__(self, request: Request, name: str, number: int) -> Iterable[bytes]:
        trial = one_trial(self.store, name, number)
        if trial is None:
            names = study_names(self.store)
            if searched(name) in names:
                said = f"Study {name} has no trial {number}"
            else:
                said = f"There is no study {name!r} in this store{did_you_mean(name, names)}"
            raise Refused(HTTPStatus.NOT_FOUND, said)
        key = trial_key(name, trial.uid, number)
        path = self._path(key)
        tag = self.frame.tag(name, number, trial, _version(path))

        def make() -> bytes:
            tail, missing = self._read(path, key)
            return self.frame.render(
                request,
                "log.html",
                f"Log of trial {number}",
                HOME,
                name=name,
                page=searched(name),
                number=number,
                state=trial.state,
                lines=None if tail is None else self._without_secrets(tail.text),
                missing=missing,
                shown=MOST_BYTES // 1024,
                size=None if tail is None or tail.whole else shown_bytes(tail.size),
            )

        return self.frame.page(request, tag, make)

    def _path(self, key: str) -> Path | None:
        """Where the log is; None where a name out of the store leads elsewhere."""
        try:
            return inside(self.artifacts.folder, key) / LOG
        except InputError:
            return None

    def _read(self, path: Path | None, key: str) -> tuple[Tail | None, str]:
        """The end of the log, or why there is none to be shown."""
        try:
            if path is not None:
                return read_tail(path), ""
        except FileNotFoundError:
            return None, self._not_there(key)
        except OSError as error:
            return (
                None,
                f"The dashboard cannot read {key}/{LOG} in its --artifacts: {error.strerror}",
            )
        except InputError:
            pass
        return None, (
            f"{key}/{LOG} is not shown: it must be a plain file in --artifacts, but it, or a "
            "folder on its way, is a link or something else"
        )

    def _not_there(self, key: str) -> str:
        """Where the log was looked for, and where it may be."""
        if self.artifacts.bucket is not None:
            more = "logs are not copied into the bucket, they stay where a trial has run"
        else:
            more = (
                "nothing was printed yet, or its files were removed, or its worker's --artifacts "
                "is a folder of another machine"
            )
        return f"There is no {key}/{LOG} in the --artifacts of this dashboard: {more}"

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def searched(name: str) -> str:
    """The study whose page tells of a trial: one that runs beside it has none of its own."""
    for suffix in BESIDE:
        name = name.removesuffix(suffix)
    return name


def _version(path: Path | None) -> tuple[int, int] | None:
    """What changes with each line of a log; None where there is none."""
    try:
        facts = None if path is None else path.lstat()
    except OSError:
        return None
    return None if facts is None else (facts.st_size, facts.st_mtime_ns)
