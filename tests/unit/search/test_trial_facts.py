"""A trial's facts: stored under the names that older versions read, and read from theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.studies.configs import drawn_config
from search.studies.reasons import reason
from search.studies.trial_facts import TrialFacts

ROOT = Path(__file__).resolve().parents[3]
ALLOWED = ("search/database/", "search/studies/trial_facts.py")

numbers = st.floats(allow_nan=False)
measured = st.builds(
    TrialFacts,
    reason=st.sampled_from(["completed", "median", "health:falling"]),
    epochs=st.integers(0, 300),
    best_epoch=st.none() | st.integers(1, 300),
    seconds=numbers,
    decode=st.dictionaries(st.just("decode.threshold"), numbers),
    per_class=st.none() | st.lists(st.none() | numbers),
    bar=st.none() | numbers,
    hardware=st.dictionaries(st.sampled_from(["device", "micro_batch"]), st.text()),
    model_sha256=st.none() | st.text(),
    trivial_score=st.none() | numbers,
)


def trial(attrs: dict[str, Any], state: TrialState = TrialState.PRUNED) -> FrozenTrial:
    return create_trial(state=state, value=0.5, user_attrs=attrs)


@given(measured)
def test_what_is_stored_is_read_back(facts: TrialFacts) -> None:
    stored = json.loads(json.dumps({"reason": facts.reason, **facts.at_end()}))
    assert TrialFacts.of(trial(stored)) == facts


def test_stored_names_stay_as_they_are() -> None:
    """Stores of other versions, and optuna-dashboard's columns, have these names."""
    assert list(TrialFacts(epochs=1).at_end()) == [
        "epochs", "best_epoch", "seconds", "decode", "per_class", "bar", "hardware",
        "parameters", "latency_ms", "model_sha256", "trivial_score",
    ]  # fmt: skip
    assert TrialFacts(error="no room").at_end() == {"error": "no room"}
    assert TrialFacts(origin="plain").in_queue() == {"origin": "plain"}
    assert TrialFacts().in_queue() == {}


def test_a_trial_of_a_0_1_store_has_its_config_among_its_facts() -> None:
    config = {"optim.lr": 0.1}
    old = trial({"config": config, "reason": "median", "epochs": 3, "a user's own": 1})
    assert drawn_config(old) == config
    assert TrialFacts.of(old) == TrialFacts(config=config, reason="median", epochs=3)
    assert TrialFacts.of(old).decode == {} and reason(old) == "median"


def test_a_trial_that_nobody_gave_a_reason_has_crashed() -> None:
    assert TrialFacts.of(trial({})) == TrialFacts() and reason(trial({})) == "crashed"


def test_raw_user_attributes_are_read_in_one_place() -> None:
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "search").rglob("*.py")
        if re.search(r"\.user_attrs\b", path.read_text())
    ]
    assert "search/studies/trial_facts.py" in readers
    assert [name for name in readers if not name.startswith(ALLOWED)] == []
