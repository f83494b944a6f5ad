"""Add up pytest's results (JUnit XML files): one line, and exit code 1 unless all of it is well."""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter


def fate(case: ElementTree.Element) -> str:
    """What became of a test; an error before or after it counts as its failure."""
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in kinds else "passed"


found = Counter(
    fate(case) for path in sys.argv[1:] for case in ElementTree.parse(path).iter("testcase")
)
print(", ".join(f"{found[name]} {name}" for name in ("passed", "failed", "skipped")))
sys.exit(bool(found["failed"] or not found["passed"]))
