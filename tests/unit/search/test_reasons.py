"""The table of reason codes: whoever names one finds it there, and the docs say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from search.studies.reasons import REASONS, known
from spaces.config import HealthConfig
from spaces.sections import PrunerSpec

ROOT = Path(__file__).resolve().parents[3]


def documented() -> dict[str, str]:
    """{code: how it is stored} of docs/training.md."""
    text = (ROOT / "docs" / "training.md").read_text()
    table = text.partition("## Why a trial ends")[2].partition("\n\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    return {
        code: stored.strip() for codes, stored in rows for code in re.findall(r"`(.+?)`", codes)
    }


def test_the_docs_have_every_reason_and_no_other() -> None:
    assert documented() == {code: reason.stored for code, reason in REASONS.items()}


def test_every_rule_and_every_alarm_has_its_reason() -> None:
    rules = {code for code, reason in REASONS.items() if reason.kind == "rule"}
    assert rules == {*get_args(PrunerSpec.model_fields["name"].annotation)} - {"none"} | {"folds"}
    alarms = {code.removeprefix("health:") for code in REASONS if code.startswith("health:")}
    limits = {name.removesuffix("_epochs") for name in HealthConfig.model_fields}
    assert alarms == {{"grad_norm": "exploding"}.get(name, name) for name in limits}


def test_reasons_that_the_code_names_are_in_the_table() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "search").rglob("*.py"))
    words = re.findall(r'\bWord\("([a-z_]+)"', code)
    results = re.findall(r'\bResult\("[A-Z]+", [^,]+, "([a-z:_]+)"', code)
    assert words and results
    assert {*words, *results} <= set(REASONS)


def test_a_failure_of_the_machine_teaches_no_sampler() -> None:
    teaches = {code for code, reason in REASONS.items() if reason.teaches}
    assert teaches == set(REASONS) - {"crashed", "preempted", "orphaned", "paused"}


def test_a_code_of_another_version_is_shown_and_counts_as_a_rules() -> None:
    reason = known("frugal")
    assert (reason.kind, reason.sentence, reason.cut) == ("rule", "", True)
