"""The median rule: a table of verdicts, a naive twin, and the ratchet that it must not have."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.stopping.curves import Curve, EndedCurves
from search.stopping.rules import (
    QuantileRule,
    Review,
    Verdict,
    optuna_pruner,
    our_rule,
    stop_from,
)
from spaces.difference import spec_difference
from spaces.sections import PrunerSpec
from spaces.spec import StudySpec

ENDED = [(0.1, 0.2, 0.3, 0.4), (0.2, 0.3, 0.4, 0.5), (0.3, 0.4, 0.5, 0.6)]  # medians .2 .3 .4 .5


@pytest.mark.parametrize(
    ("values", "ended", "stops", "why"),
    [
        ((0.0, 0.0), ENDED, False, "not before epoch 3"),
        ((0.0, 0.0, 0.39), ENDED, True, "below the median of 0.4"),
        ((0.0, 0.0, 0.40), ENDED, False, "on the median is not below it"),
        ((0.45, 0.0, 0.0), ENDED, False, "its best so far counts, not its last"),
        ((0.0, 0.0, 0.0), ENDED[:2], False, "only two trials have ended, three are needed"),
        ((0.0, 0.0, 0.35), [(0.9,), *ENDED[:2]], True, "a stopped trial counts with its 0.9"),
        ((0.0, 0.0, 0.45), [(0.9,), *ENDED[:2]], False, "median of .9, .3, .4 is .4"),
        ((0.0, 0.0, 0.3, 0.49), ENDED, True, "epoch 4 has its own median, 0.5"),
        ((0.0, 0.0, 0.1), [(), *ENDED[1:]], False, "a trial without an epoch is no third trial"),
        ((float("nan"),) * 3, ENDED, True, "nothing reached is below any median"),
        ((0.0, 0.0, 0.35), [(float("nan"), 0.3), *ENDED[1:]], True, "NaN epochs are skipped"),
    ],
)
def test_verdicts(
    values: tuple[float, ...], ended: list[tuple[float, ...]], stops: bool, why: str
) -> None:
    rule = QuantileRule(3, ((3, 0.5),))
    verdict = rule.verdict(Curve(values), EndedCurves.of(map(Curve, ended)))
    assert verdict is (Verdict.STOP if stops else Verdict.GO), why


@pytest.mark.parametrize(
    ("epoch", "warmup", "stops"),
    [
        (4, 4, False),  # still warming up
        (5, 4, True),  # first epoch after: held against the others' first epoch after theirs
    ],
)
def test_alignment_counts_from_the_end_of_the_warmup(epoch: int, warmup: int, stops: bool) -> None:
    ended = EndedCurves.of([Curve((0.1, 0.1, 0.5, 0.6), warmup=2)] * 3)
    trial = Curve((0.3,) * epoch, warmup=warmup)
    rule = QuantileRule(3, ((1, 0.5),), align_warmup=True)
    assert (rule.verdict(trial, ended) is Verdict.STOP) is stops
    if stops:
        assert rule.bar(trial, ended) == 0.5  # epoch 2 + 1, not epoch 5


curves = st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=8).map(tuple)


@given(trial=curves, ended=st.lists(curves, max_size=12), startup=st.integers(0, 6))
def test_equals_a_naive_implementation(
    trial: tuple[float, ...], ended: list[tuple[float, ...]], startup: int
) -> None:
    rule = QuantileRule(startup, ((3, 0.5),))
    verdict = rule.verdict(Curve(trial), EndedCurves.of(map(Curve, ended)))
    assert (verdict is Verdict.STOP) is _naive(trial, ended, startup)


def _naive(trial: tuple[float, ...], ended: list[tuple[float, ...]], startup: int) -> bool:
    epoch = len(trial)
    if epoch < 3:
        return False
    reached = []
    for curve in ended:
        carried = list(curve) + [float("nan")] * epoch  # a stopped trial reaches nothing new
        seen = [value for value in carried[:epoch] if value == value]
        if seen:
            reached.append(max(seen))
    if len(reached) < max(1, startup):
        return False
    own = [value for value in trial if value == value]
    return not own or max(own) < statistics.median(reached)


def test_the_stock_rule_ratchets_and_ours_does_not() -> None:
    """200 trials of one distribution: whoever comes late has the same right to be completed."""
    late_stock, late_ours, top_stock, top_ours = [], [], [], []
    for seed in range(5):
        drawn = _random_curves(seed, trials=200, epochs=15)
        top = np.argsort(-drawn.max(axis=1))[:10]
        stock, ours = _run_stock(drawn), _run_ours(drawn)
        late_stock.append(np.mean(stock[100:]))
        late_ours.append(np.mean(ours[100:]))
        top_stock.append(np.mean([stock[i] for i in top]))
        top_ours.append(np.mean([ours[i] for i in top]))
    assert np.mean(late_stock) < 0.1  # the bar has risen past nearly everyone
    assert 0.4 < np.mean(late_ours) < 0.6  # a median lets half through, early or late
    assert np.mean(top_ours) > np.mean(top_stock) + 0.2  # good trials with an ordinary start


def _random_curves(seed: int, trials: int, epochs: int) -> np.ndarray:
    """Saturating curves with noise: (trials, epochs)."""
    random = np.random.default_rng(seed)
    final = random.normal(0.4, 0.05, (trials, 1))
    rate = np.exp(random.normal(-1.2, 0.5, (trials, 1)))
    noise = random.normal(0, 0.015, (trials, epochs))
    return final * (1 - np.exp(-rate * np.arange(1, epochs + 1))) + noise


def _run_stock(drawn: np.ndarray) -> list[bool]:
    """Whether each trial completes under Optuna's MedianPruner."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    completed = []
    for row in drawn:
        trial = study.ask()
        pruned = False
        for epoch, value in enumerate(row, 1):
            trial.report(float(value), epoch)
            if trial.should_prune():
                pruned = True
                break
        state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
        study.tell(trial, None if pruned else float(row.max()), state=state)
        completed.append(not pruned)
    return completed


def _run_ours(drawn: np.ndarray) -> list[bool]:
    rule = QuantileRule(5, ((3, 0.5),))
    ended = EndedCurves()
    completed = []
    for trial, row in enumerate(drawn):
        verdicts = ((e, rule.verdict(Curve(tuple(row[:e])), ended)) for e in range(1, len(row)))
        stop = next((epoch for epoch, verdict in verdicts if verdict is Verdict.STOP), None)
        ended.add({trial: Curve(tuple(row[:stop]))})
        completed.append(stop is None)
    return completed


@pytest.mark.parametrize(("epochs", "first"), [(5, 3), (15, 3), (16, 4), (50, 10), (100, 20)])
def test_the_median_of_ended_trials_waits_for_a_fifth_of_the_run(epochs: int, first: int) -> None:
    median = PrunerSpec(name="ended_median")
    assert stop_from(median, epochs) == first
    assert stop_from(median.model_copy(update={"stop_from": 1}), epochs) == 1
    assert our_rule(median, epochs, 30) == QuantileRule(5, ((first, 0.5),))


@pytest.mark.parametrize(
    ("epochs", "pauses", "stops"),
    [(1, 2, 3), (4, 2, 3), (8, 2, 3), (12, 2, 3), (15, 2, 4), (16, 2, 4), (21, 3, 6), (50, 5, 13)],
)
def test_the_default_pauses_from_a_tenth_and_stops_from_a_quarter_on(
    epochs: int, pauses: int, stops: int
) -> None:
    rule = our_rule(PrunerSpec(), epochs, 6)
    assert rule == QuantileRule(
        5, ((stops, 0.5),), pauses, running=True, pause_below=0.9, pause_early=0.5
    )
    few = our_rule(PrunerSpec(), epochs, 5)  # never five others: nothing to wait for
    assert few == replace(rule, pause_below=None, pause_early=None)


def test_thrifty_has_a_low_bar_first_and_a_high_one_from_a_third_on() -> None:
    rule = our_rule(PrunerSpec(name="thrifty"), 15, 30)
    assert rule.bars == ((2, 0.3), (5, 0.65)) and rule.pause_from == 2
    late = our_rule(PrunerSpec(name="thrifty", stop_from=8), 15, 30)
    assert late.bars == ((8, 0.3), (8, 0.65))
    others = EndedCurves.of([Curve((value,) * 15) for value in FIVE])
    for epoch, bar in ((1, None), (2, 0.22), (4, 0.22), (5, 0.36), (15, 0.36)):
        assert rule.bar(Curve((0.0,) * epoch), others) == (bar and pytest.approx(bar))
        assert late.bar(Curve((0.0,) * epoch), others) == (0.36 if epoch == 15 else None)


def test_the_quantile_is_the_general_form() -> None:
    given = PrunerSpec(
        name="quantile", startup_trials=1, stop_from=9, pause_from=4, quantile=0.9, margin=0.02
    )
    assert our_rule(given, 30, 30) == QuantileRule(
        1, ((9, 0.9),), 4, margin=0.02, running=True, pause_below=0.9, pause_early=0.5
    )
    aligned = given.model_copy(update={"align": "warmup"})
    assert our_rule(aligned, 30, 30) == QuantileRule(1, ((9, 0.9),), 4, True, 0.02)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (None, QuantileRule(5, ((2, 0.65),), 2, False, 0.0, True, 0.9, 0.5)),
        ("quantile", QuantileRule(5, ((2, 0.65),), 2, False, 0.0, True, 0.9, 0.5)),
        ({"min_epochs": 4}, QuantileRule(5, ((4, 0.65),), 4, False, 0.0, True, 0.9, 0.5)),
        ("median", QuantileRule(5, ((3, 0.5),))),
        ({"name": "median", "min_epochs": None}, QuantileRule(5, ((3, 0.5),))),
        ({"name": "median", "min_epochs": 1}, QuantileRule(5, ((1, 0.5),))),
    ],
)
def test_a_study_begun_before_keeps_its_rule(
    given: object, rule: QuantileRule, number: int
) -> None:
    tree = {"name": "s", "defaults": number} | ({} if given is None else {"pruner": given})
    tree |= {"task": "segmentation", "data": {"train": {"list": "t"}, "val": {"list": "v"}}}
    tree["data"]["classes"] = ["a", "b"]
    spec = StudySpec.of(tree)
    found = our_rule(spec.pruner, 15, 30)
    if spec.pruner.name == "ended_median":
        found = replace(found, pause_from=rule.pause_from)  # it pauses none
    assert found == rule
    again = StudySpec.from_json(spec.to_json())
    assert again.pruner == spec.pruner
    new = StudySpec.of({key: value for key, value in tree.items() if key != "defaults"})
    assert spec_difference(spec, new) == ""  # the same file, given again


def test_running_trials_count_where_they_have_come_as_far() -> None:
    trial, ended = Curve((0.1, 0.3)), EndedCurves.of([Curve((0.2, 0.2))])
    rule = QuantileRule(3, ((2, 0.75),), running=True)
    assert rule.bar(trial, ended, [0.4]) is None  # two others
    assert rule.bar(trial, ended, [0.4, 0.6]) == pytest.approx(0.5)
    assert rule.verdict(trial, ended, [0.4, 0.6]) is Verdict.STOP
    alone = QuantileRule(1, ((2, 0.75),))
    assert alone.bar(trial, ended, [0.4, 0.6]) == 0.2  # ended ones only


PAUSES = QuantileRule(3, ((2, 0.5),), 2, running=True, pause_below=0.75, pause_early=0.25)
FIVE = [0.1, 0.2, 0.3, 0.4, 0.5]  # quartiles 0.2, 0.3, 0.4


@pytest.mark.parametrize(
    ("values", "beside", "verdict", "without_pauses"),
    [
        ((0.19,), FIVE, Verdict.PAUSE, Verdict.GO),  # too early to stop
        ((0.2,), FIVE, Verdict.GO, Verdict.GO),
        ((float("nan"),), FIVE, Verdict.PAUSE, Verdict.GO),
        ((0.0,), FIVE[:2], Verdict.GO, Verdict.GO),  # it waits after epoch 2 if need be
        ((0.0, 0.29), FIVE, Verdict.STOP, Verdict.STOP),
        ((0.0, 0.3), FIVE, Verdict.PAUSE, Verdict.GO),  # at the bar is not below it
        ((0.0, 0.39), FIVE, Verdict.PAUSE, Verdict.GO),
        ((0.0, 0.4), FIVE, Verdict.GO, Verdict.GO),
        ((0.0, 0.0, 0.39), FIVE, Verdict.PAUSE, Verdict.GO),
        ((0.0, 0.4), FIVE[:2], Verdict.PAUSE, Verdict.GO),  # too few: it waits for others
        ((0.0, 0.0), [], Verdict.PAUSE, Verdict.GO),
        ((0.0, 0.0, 0.0), FIVE[:2], Verdict.GO, Verdict.GO),  # once is enough
    ],
)
def test_between_two_bars_a_trial_waits(
    values: tuple[float, ...], beside: list[float], verdict: Verdict, without_pauses: Verdict
) -> None:
    ended, trial = EndedCurves(), Curve(values)
    assert PAUSES.verdict(trial, ended, beside) is verdict
    assert PAUSES.verdict(trial, ended, beside, may_pause=False) is without_pauses
    never = replace(PAUSES, pause_below=None, pause_early=None)
    assert never.verdict(trial, ended, beside) is without_pauses


@pytest.mark.parametrize(("first", "looks"), [(1, set()), (2, {1}), (3, {1, 2}), (5, {2, 3, 4})])
def test_early_looks_begin_half_way_to_the_first_verdict(first: int, looks: set[int]) -> None:
    rule = replace(PAUSES, bars=((first, 0.5),), pause_from=first)
    verdicts = {
        epoch: rule.verdict(Curve((0.0,) * epoch), EndedCurves(), FIVE) for epoch in range(1, 7)
    }
    assert {e for e, verdict in verdicts.items() if verdict is Verdict.PAUSE} == looks
    assert {e for e, verdict in verdicts.items() if verdict is Verdict.STOP} == set(range(first, 7))


def test_paused_trials_are_judged_beside_each_other_and_all_others() -> None:
    ended = EndedCurves.of([Curve((0.0, 0.1)), Curve((0.2,))])
    paused = {3: Curve((0.1, 0.3)), 4: Curve((0.2, 0.2)), 5: Curve((0.0, 0.15, 0.35))}
    running = {6: Curve((0.1,)), 7: Curve((0.4, 0.5))}
    # trial 3 beside 0.1, 0.2, 0.2, 0.15, 0.5: median 0.2, third quartile 0.2; it goes on
    # trial 4 beside 0.1, 0.2, 0.3, 0.15, 0.5: median 0.2, third quartile 0.3; it waits
    # trial 5, at epoch 3, beside 0.1, 0.2, 0.3, 0.2: third quartile 0.225; it goes on
    assert PAUSES.review(paused, running, ended) == Review({}, [5, 3], [4])
    better = EndedCurves.of([*ended, Curve((0.6, 0.6)), Curve((0.6, 0.7))])
    found = PAUSES.review(paused, running, better)
    # trial 3 beside 0.1, 0.2, 0.6, 0.7, 0.2, 0.15, 0.5: median 0.2, third quartile 0.55
    assert found == Review({4: 0.3}, [], [5, 3])


@given(
    paused=st.dictionaries(st.integers(0, 20), curves, max_size=8),
    running=st.dictionaries(st.integers(21, 40), curves, max_size=5),
    ended=st.lists(curves, max_size=8),
)
def test_a_review_gives_each_paused_trial_the_verdict_of_its_last_epoch(
    paused: dict[int, tuple[float, ...]],
    running: dict[int, tuple[float, ...]],
    ended: list[tuple[float, ...]],
) -> None:
    known = EndedCurves.of(map(Curve, ended))
    waiting = {number: Curve(values) for number, values in paused.items() if values}
    found = PAUSES.review(waiting, {n: Curve(values) for n, values in running.items()}, known)
    assert sorted([*found.stops, *found.goes, *found.waits]) == sorted(waiting)
    for number, curve in waiting.items():
        epoch = len(curve.values)
        beside = [other.best_by(epoch) for n, other in waiting.items() if n != number]
        beside += [Curve(v).best_by(epoch) for v in running.values() if len(v) >= epoch]
        verdict = PAUSES.verdict(curve, known, [best for best in beside if best is not None])
        group = {Verdict.STOP: found.stops, Verdict.GO: found.goes, Verdict.PAUSE: found.waits}
        assert number in group[verdict]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("quantile", optuna.pruners.NopPruner),
        ("median", optuna.pruners.NopPruner),
        ("thrifty", optuna.pruners.NopPruner),
        ("ended_median", optuna.pruners.NopPruner),
        ("none", optuna.pruners.NopPruner),
        ("stock_median", optuna.pruners.MedianPruner),
        ("percentile", optuna.pruners.PercentilePruner),
        ("hyperband", optuna.pruners.HyperbandPruner),
    ],
)
def test_every_pruner_of_the_study_file_exists(name: str, kind: type) -> None:
    assert isinstance(optuna_pruner(PrunerSpec(name=name), 15), kind)


@pytest.mark.parametrize("name", ["stock_median", "percentile"])
@pytest.mark.parametrize("first", [1, 3, 4])
def test_optunas_pruners_judge_from_stop_from_on_as_ours_does(name: str, first: int) -> None:
    pruner = optuna_pruner(PrunerSpec(name=name, startup_trials=1, stop_from=first), 15)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for value in (0.9, 0.1):
        trial = study.ask()
        judged = []
        for epoch in range(1, 6):
            trial.report(value, epoch)
            judged.append(trial.should_prune())
        if value == 0.9:
            study.tell(trial, value)
    assert judged == [epoch >= first for epoch in range(1, 6)]
