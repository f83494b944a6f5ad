"""Whether two study files ask for the same search, and where they do not."""

from __future__ import annotations

import difflib
import json

from spaces.spec import StudySpec
from spaces.yamlfile import dump_yaml

CHANGEABLE = ("confirm", "trackers", "workers")  # sections that a later launch may change


def spec_difference(stored: StudySpec, given: StudySpec) -> str:
    """Return a unified diff of two specs as YAML, or an empty string where they are the same.

    Those of CHANGEABLE and `budget.until` change no trial of the search, so they may differ. A
    study goes on with the defaults that it began with, unless the file names others.
    """
    free = {*CHANGEABLE, "left_out"}
    if "defaults" not in given.model_fields_set:
        named = given.model_dump(mode="json", exclude_unset=True)
        given = StudySpec.of({**named, "defaults": stored.defaults})
    until = {"until": stored.budget.until}
    budget = {"budget": given.budget.model_copy(update=until)}
    given = given.model_copy(update={name: getattr(stored, name) for name in free} | budget)
    if stored.to_json() == given.to_json():
        return ""
    before, after = (
        dump_yaml(json.loads(spec.to_json()), sort_keys=True).splitlines()
        for spec in (stored, given)
    )
    return "\n".join(difflib.unified_diff(before, after, "stored", "given", lineterm="", n=1))
