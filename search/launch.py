"""From a study file to a finished study: preflight, create or resume, run, show."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from optuna.trial import FrozenTrial
from rich.console import Console

from search.database.optuna_private import id_of_trial
from search.database.retry import until_it_answers
from search.database.store import Store
from search.database.tables import ENDED, GAIN, OPEN, RUNNING
from search.files.artifacts import Artifacts
from search.findings.beginning import read_beginning
from search.findings.tables import show_answer
from search.findings.wording import splits_named
from search.launchers import forget, launcher, remember
from search.launchers.engine import Launcher, Member, Order
from search.near_duplicates import near_duplicates
from search.studies.confirmations import with_confirmation
from search.studies.limits import reopen, stopped
from search.studies.own_end import own_end
from search.studies.reasons import reason
from search.studies.study import Study, create_or_resume
from search.studies.trial_facts import TrialFacts
from search.work.confirming import advance, is_due
from search.work.estimate import estimate
from search.work.preflight import limit_lines, preflight, settled
from search.work.progress import ProgressView
from search.work.service import new_worker
from search.work.tracker_feed import Tracked
from search.work.watchers import Interrupt
from search.work.worker import TooManyFailures
from spaces.data import fold_count
from spaces.errors import DONE, FAILED, INTERRUPTED, InputError
from spaces.spec import StudySpec
from trainers.tasks import Data

T = TypeVar("T")
Measured = tuple[float, float] | None

LOOK_SECONDS = 1.0


def launch(
    spec: StudySpec,
    store: Store,
    artifacts: Artifacts,
    console: Console,
    trials: int | None = None,
    order: Order | None = None,
    *,
    measure: bool = False,
    **worker: Any,
) -> int:
    """Create or resume a study and run it to its budget; return the exit code.

    Args:
        trials: total budget, where it differs from the file's.
        measure: say what it will take, where it trains here and no trial has ended yet.
        order: workers in processes of their own; None runs the trials from this process.
        worker: settings of the worker that does, as of `Worker`.
    """
    on = "here" if order is None else order.options.on
    starts_none = order is not None and order.options.count == 0
    trains_here = on in ("here", "local") and not starts_none
    data = preflight(spec, trains_here=trains_here)
    engine = None
    if order is not None:
        _check_reach(order, store)
        if not starts_none:
            engine = launcher(order.options)
            engine.check()  # before anything exists
    store.work_alone()
    begun = settled(spec, data)
    study = create_or_resume(
        store,
        begun,
        data.fingerprint,
        trials,
        lambda: read_beginning(store, begun, data.fingerprint),
    )
    study.take_settings(spec)
    why = own_end(study)
    if why is not None and trials is not None and trials > why.of:
        reopen(store, study.study_id)
    if (reason := stopped(study)) not in (None, GAIN):
        raise InputError(
            f"study {spec.name} was stopped ({reason}); reopen it with: segtune resume {spec.name}"
        )
    counts = study.slots.counts()
    ended = counts["COMPLETE"] + counts["PRUNED"] + counts["FAILED"]
    verb = "resumed" if ended else "started"
    images = splits_named(data.splits, fold_count(spec.data))
    console.print(
        f"study {spec.name} {verb}: {ended} of {sum(counts.values())} trials ended; images: "
        f"{images}; store: {store.shown}",
        highlight=False,
        soft_wrap=True,
    )
    limited = limit_lines(study.spec, data) if trains_here else []
    known = study.beginning.lines if study.beginning else ()
    for note in (*known, *data.notes, *near_duplicates(data), *limited):
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    measured = None
    if measure and trains_here and not ended:
        measured = _say_what_it_takes(study, data, sum(counts.values()), console)
    if order is not None:
        return run_crew(study, order, engine, console, measured)
    return run(study, data, artifacts, console, measured=measured, **worker)


def _say_what_it_takes(study: Study, data: Data, trials: int, console: Console) -> Measured:
    """Measure a few steps, and say it; returns the range of seconds that it is."""
    console.print("measuring a few steps of the smallest and the largest config")
    found = estimate(study.spec, data, trials)
    for line in found.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return found.seconds


def run_crew(
    study: Study,
    order: Order,
    engine: Launcher | None,
    console: Console,
    measured: Measured = None,
) -> int:
    """Start workers for a study's open slots and watch them; return the exit code.

    Args:
        engine: None leaves the study to workers that others have started.
        measured: as of `ProgressView`.
    """
    name, interrupt = study.spec.name, Interrupt()
    hints = f"watch: segtune status {name}\nstop:  segtune stop {name}"
    if engine is None:
        console.print(f"left to the workers of this store\n{hints}", highlight=False)
        return DONE
    members = engine.start(order)
    remember(study, order.options, members)
    console.print(
        f"{len(members)} workers started ({order.options.on}): {members[0].job}"
        f"{' ...' if len(members) > 1 else ''}; logs: {members[0].log}",
        highlight=False,
        soft_wrap=True,
    )
    if order.detach:
        console.print(hints, highlight=False)
        return DONE
    with interrupt.listen():
        finished = follow(study, members, console, interrupt, measured)
    for member in members:
        if (failure := member.failure()) is not None:
            console.print(
                f"worker {member.job} ended with {failure}; see {member.log}",
                highlight=False,
                soft_wrap=True,
            )
    if not finished:
        console.print(f"study {name} interrupted; everything is saved. The same command resumes it")
        return INTERRUPTED
    forget(study, members)
    if not _finished(study):
        return FAILED
    show_answer(study, console)
    _say_own_end(study, console)
    _say_next(study, console)
    return DONE


def follow(
    study: Study,
    members: Sequence[Member],
    console: Console,
    interrupt: Interrupt,
    measured: Measured = None,
) -> bool:
    """Show trials as they end, until the workers have; False where interrupted."""
    studies = with_confirmation(study)
    known = {id_of_trial(t) for one in studies for t in one.trials() if _ended(t)}
    with ProgressView(study, console, measured) as view:

        def watched() -> list[Study]:
            """The study, and its confirmation once there is one."""
            if len(studies) == 1:
                studies[:] = with_confirmation(study)
            return studies

        def patiently(call: Callable[[], T]) -> T:
            return until_it_answers(
                call, give_up=lambda: interrupt.count > 1, on_wait=view.store_away
            )

        def look() -> bool:
            """Show what has ended since; False where nothing has."""
            found = patiently(lambda: [(one, t) for one in watched() for t in one.trials()])
            new = [(one, t) for one, t in found if _ended(t) and id_of_trial(t) not in known]
            known.update(id_of_trial(trial) for _, trial in new)
            ended = [trial for one, trial in new if one is study]
            if ended:
                alive = sum(member.runs() for member in members)
                trials = [trial for one, trial in found if one is study]
                waiting = patiently(study.slots.waiting)
                view.trials_ended(trials, waiting, ended, alive)
            for one, trial in new:
                if one is not study:
                    _say_confirming(one, trial, console)
            return bool(new)

        told, withdrawn = 0, False
        while any(member.runs() for member in members):
            if interrupt.count > told:
                told = interrupt.count
                for member in members:
                    member.stop()
            if look() and not withdrawn and _finished(study):
                withdrawn = True
                for member in members:
                    member.withdraw()
            time.sleep(LOOK_SECONDS)
        look()
    return not interrupt.count


def _ended(trial: FrozenTrial) -> bool:
    return trial.state.is_finished()


def _say_confirming(study: Study, trial: FrozenTrial, console: Console) -> None:
    """Say that a run of a confirmation has ended."""
    facts, why = TrialFacts.of(trial), reason(trial)
    state = "FAILED" if trial.state.name == "FAIL" else trial.state.name
    value = "no value" if trial.value is None else f"{study.metric} {trial.value:.4f}"
    console.print(
        f"trial {facts.confirms} on a fresh seed {state} ({why}): {value} in {facts.epochs} epochs",
        highlight=False,
        soft_wrap=True,
    )


def _finished(study: Study) -> bool:
    """Whether every slot of the study and of its confirmation has ended, or it was stopped."""
    counts, stop = study.slots.counts(), stopped(study)
    over = sum(counts[state] for state in ENDED) == sum(counts.values())
    if stop == GAIN:  # what runs goes on
        interrupted = "INTERRUPTED" in study.slots.waiting().values()
        over |= not counts[RUNNING] and not interrupted
    else:
        over |= stop is not None
    return over and not is_due(study)


def run(
    study: Study,
    data: Data,
    artifacts: Artifacts,
    console: Console,
    *,
    measured: Measured = None,
    **worker: Any,
) -> int:
    """Run a study's open slots and its confirmation here; return the exit code.

    Args:
        measured: as of `ProgressView`.
        worker: as of `launch`.
    """
    name = study.spec.name
    code = run_slots(study, data, artifacts, console, measured, **worker)
    while code == DONE and (confirmation := advance(study)) is not None:
        counts = confirmation.slots.counts()
        if not counts[OPEN]:
            break
        console.print(
            f"confirming: {counts[OPEN]} runs of the best trials on a fresh seed", highlight=False
        )
        code = run_slots(confirmation, data, artifacts, console, **worker)
    if code != DONE:
        return code
    show_answer(study, console)
    if (reason := stopped(study)) not in (None, GAIN):
        console.print(f"study {name} was stopped ({reason}); reopen it: segtune resume {name}")
    _say_own_end(study, console)
    if any(one.slots.counts()[RUNNING] for one in with_confirmation(study)):
        console.print(f"study {name}: other workers are still running trials")
    _say_next(study, console)
    return DONE


def _say_own_end(study: Study, console: Console) -> None:
    """Why the study has ended before its budget, where it has."""
    if (why := own_end(study)) is not None:
        name = study.spec.name
        said = f"study {name} {why.sentence(study.metric)}; go on: segtune resume {name}"
        console.print(said, highlight=False, markup=False, soft_wrap=True)


def _say_next(study: Study, console: Console) -> None:
    """What to take away once the study has ended."""
    name = study.spec.name
    planned = f", or segtune ensemble {name} --to together/" if study.spec.ensemble else ""
    console.print(f"next: segtune export {name} --to best/{planned}", highlight=False)


def run_slots(
    study: Study,
    data: Data,
    artifacts: Artifacts,
    console: Console,
    measured: Measured = None,
    **worker: Any,
) -> int:
    """Run the slots that are open now; return the exit code."""
    name = study.spec.name
    interrupt = Interrupt()
    try:
        with (
            interrupt.listen(),
            ProgressView(study, console, measured) as view,
            Tracked(study, artifacts, view, console, interrupt) as watcher,
        ):
            finished = new_worker(study, data, artifacts, watcher, interrupt, **worker).run()
    except TooManyFailures:
        console.print(
            f"study {name} stopped: several trials in a row failed. The reason stands above and "
            "in the trials' logs; mend it and launch again to go on",
            soft_wrap=True,
        )
        return FAILED
    if not finished:
        console.print(f"study {name} interrupted; everything is saved. The same command resumes it")
        return INTERRUPTED
    return DONE


def _check_reach(order: Order, store: Store) -> None:
    """Raise InputError where the workers of an order could not reach the store."""
    if not store.postgres:
        raise InputError(
            f"workers and --detach need Postgres, but the store is {store.shown}, which serves "
            "one worker; leave --store away to use the embedded Postgres"
        )
    if order.options.on != "local" and not store.engine.url.host:
        raise InputError(
            f"workers.on: {order.options.on} needs a Postgres server that its machines reach, but "
            f"the store is {store.shown}; name one with --store or $SEGTUNE_STORE"
        )
