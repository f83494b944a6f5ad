"""`segtune delete`: a study taken out of the store, and its files with it."""

from __future__ import annotations

from search.files.artifacts import Artifacts
from search.files.removal import files_size, remove_files, shown_files
from search.files.results import Results
from search.launchers import submitted, take_back
from search.studies.deletion import delete_rows
from search.studies.finishing import with_all_beside
from search.studies.job_runs import results_of
from search.studies.study import Study
from spaces.errors import InputError


def said_of(study: Study, artifacts: Artifacts) -> str:
    """What would be deleted, in words."""
    studies = with_all_beside(study)
    trials = sum(len(one.trials()) for one in studies)
    size = sum(files_size(artifacts, one) for one in studies)
    names = ["its confirmation" if s.spec.confirms else "its finished trials" for s in studies[1:]]
    beside = f" ({' and '.join(names)} included)" if names else ""
    return (
        f"study {study.spec.name} of {study.store.shown}: {trials} trials{beside}, and "
        f"{size / 1e6:.1f} MB in {artifacts.name}"
    )


def delete_study(study: Study, artifacts: Artifacts) -> list[str]:
    """Delete a study, those beside it and their files; returns what is left, in words.

    The store comes first: files without a study are found by their folder's name, a study without
    files would go on as if it had them.

    Raises:
        InputError: workers run its trials, or another process works on its sqlite store.
    """
    study.store.work_alone()
    with study.store.study_lock(study.study_id):  # so that no confirmation is planned meanwhile
        studies = with_all_beside(study)
        shown = [shown_files(one) for one in studies]
        results = results_of(study.store, [one.spec.name for one in studies])
        jobs = submitted(study)
        delete_rows(studies)
    problems = [f"jobs that wait: {problem}" for problem in take_back(jobs)]
    for one, ids in zip(studies, shown, strict=True):
        try:
            remove_files(artifacts, one, ids)
        except InputError as error:
            problems.append(str(error))
        except Exception as error:  # a disk's or a bucket's; the study is gone all the same
            problems.append(f"{artifacts.name}: {type(error).__name__}: {error}")
    try:
        for key in results:
            Results(artifacts).remove(key)
    except Exception as error:
        problems.append(f"{artifacts.name}: {type(error).__name__}: {error}")
    return problems
