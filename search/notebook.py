"""A study in a notebook: its trials as a DataFrame, its best config, its curves and graphs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from search.database.store import Store, open_store
from search.files.artifacts import Artifacts, open_artifacts
from search.findings.answer import answer_of, best_trial
from search.findings.facts import Facts, gather
from search.studies.reasons import reason
from search.studies.study import Study
from search.studies.study import open_study as open_in_store
from search.studies.trial_facts import TrialFacts
from spaces.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Best(NamedTuple):
    """The best trial.

    Attributes:
        value: the mean over fresh seeds; the best epoch of one seed where it has none.
        sd: between the fresh seeds; None of fewer than two.
        fresh_seeds: how many it ran on beside the first.
    """

    number: int
    value: float
    sd: float | None = None
    fresh_seeds: int = 0


def open_study(
    name: str, store: str | None = None, artifacts: str | Path | None = None
) -> NotebookStudy:
    """Open a study by name.

    Args:
        store: URL, as of `--store`: else $SEGTUNE_STORE, else the embedded Postgres.
        artifacts: folder of trial files or s3://bucket/prefix, as of `--artifacts`: else
            $SEGTUNE_ARTIFACTS, else in $SEGTUNE_HOME.

    Raises:
        InputError: the store cannot be reached, or has no study of that name; the message says
            the nearest one.
    """
    kept = open_artifacts(None if artifacts is None else str(artifacts))
    opened = open_store(store, create=False)
    try:
        return NotebookStudy(opened, open_in_store(opened, name), kept)
    except BaseException:
        opened.close()
        raise


class NotebookStudy:
    """An open study; whatever it is asked, it answers as of now, while trials may go on.

    Close it when done, or use it in a `with` block.
    """

    def __init__(self, store: Store, study: Study, artifacts: Artifacts) -> None:
        self._store, self._study, self._artifacts = store, study, artifacts

    @property
    def name(self) -> str:
        return self._study.spec.name

    @property
    def metric(self) -> str:
        """What a trial is scored by, as in mIoU."""
        return self._study.metric

    @property
    def best(self) -> Best:
        """The best trial; raises InputError where none has ended with a value."""
        answer = answer_of(self._study)
        number, winner = answer.trial.number, answer.confirmed
        if winner is None:
            return Best(number, answer.value)
        return Best(number, answer.value, winner.sd, len(winner.runs))

    def best_config(self, trial: int | None = None) -> dict[str, Any]:
        """Every setting of the best trial (or of `trial`) by dotted name, as in study files.

        Raises:
            InputError: no such trial has ended with a value.
        """
        return self._study.config(best_trial(self._study, trial)).flat()

    def dataframe(self, *, all_settings: bool = False) -> pd.DataFrame:
        """One row a trial: what it came to, and a column for each searched setting.

        Settings are the effective ones: also those that a condition has kept at their default,
        and those of decoding that the trial has chosen. `origin` is a recipe of the field, or the
        sampler.

        Args:
            all_settings: a column for each setting, fixed ones too.
        """
        import pandas as pd

        facts = self._facts()
        names = list(self._study.space.base.flat()) if all_settings else facts.searched
        waiting = self._study.slots.waiting()
        rows = []
        for trial in facts.trials:
            known, settings = TrialFacts.of(trial), facts.settings(trial)
            row = {
                "number": trial.number,
                "state": waiting.get(trial.number, trial.state.name),
                "reason": reason(trial) if trial.state.is_finished() else None,
                "value": trial.value,
                "best_epoch": known.best_epoch,
                "epochs": known.epochs,
                "seconds": known.seconds,
                "origin": known.origin or self._study.spec.sampler.name,
            }
            rows.append(row | {name: settings.get(name) for name in names})
        frame = pd.DataFrame(rows, columns=[*_COLUMNS, *names])
        # where no trial has ended yet they would be columns of objects
        kinds = {"best_epoch": "Int64", "epochs": "Int64", "value": "float", "seconds": "float"}
        return frame.astype(kinds)

    def curves(self, trials: Iterable[int] | None = None) -> pd.DataFrame:
        """One row a trial and epoch: the metrics, the rate, each part of both losses, and the
        weights of those that are learned.

        Args:
            trials: numbers of the trials to read; all of them when left out.
        """
        import pandas as pd

        numbers = [trial.number for trial in self._study.trials()] if trials is None else trials
        rows = []
        for number in numbers:
            for report in self._study.history(number):
                scores = {self.metric: report.metric} | report.metrics
                fold = {} if report.fold is None else {"fold": report.fold}
                row = {"trial": number, "epoch": report.epoch, **fold, **scores}
                for split, losses in (("train", report.train), ("val", report.val)):
                    for part, value in losses.parts().items():
                        row[f"{split}_{part}"] = value
                weights = (report.loss_weights or {}).items()
                row |= {f"weight_{part}": weight for part, weight in weights}
                rows.append(row | {"lr": report.lr, "seconds": report.seconds})
        return pd.DataFrame(rows, columns=None if rows else ["trial", "epoch", self.metric])

    def importances(self) -> dict[str, float]:
        """{setting: share of the differences in rank that it explains}, largest first.

        Only settings that explain more than chance; empty where none does, or of few trials.
        """
        return dict(self._facts().importances)

    def figures(self) -> dict[str, go.Figure]:
        """{name: graph} of all graphs that the study has something for."""
        from search.findings.search_graphs import study_landscape
        from search.findings.trial_graphs import study_figures

        facts = self._facts()
        return {**study_landscape(facts), **study_figures(facts)}

    def figure(self, name: str) -> go.Figure:
        """One of `figures`; raises InputError for an unknown name."""
        figures = self.figures()
        if name not in figures:
            hint = did_you_mean(name, figures) or f"; known: {', '.join(figures)}"
            raise InputError(f"study {self.name} has no graph {name}{hint}")
        return figures[name]

    def export(self, to: str | Path, trial: int | None = None, *, test: bool = True) -> Path:
        """Write the best config, its weights and provenance into a folder, as `segtune export`.

        Args:
            test: score it on the test split, where there is one, which is recorded as a look.
        """
        from search.findings.export import export_study

        return export_study(self._study, self._artifacts, Path(to), trial, test=test)

    def report(self, to: str | Path) -> Path:
        """Write the report into a file that ends in .html or .md, as `segtune report`."""
        from search.findings.page import check_target
        from search.findings.report import write_report

        target = Path(to)
        write_report(self._study, target, check_target(target, None), self._artifacts)
        return target

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> NotebookStudy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<study {self.name} in {self._store.shown}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: how far it is, what is best, and its settings."""
        from search.findings.markup import to_html
        from search.findings.notes import best_config, confirmation, headline

        facts = self._facts()
        return to_html([*headline(facts), *confirmation(facts), *best_config(facts)])

    def _facts(self) -> Facts:
        return gather(self._study)


_COLUMNS = ("number", "state", "reason", "value", "best_epoch", "epochs", "seconds", "origin")
