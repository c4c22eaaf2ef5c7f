"""The page that says what survives what lists every fault, and tests that are there."""

import re
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text()
FAULTS = [f"F{n}" for n in range(1, 38)]
BAD_INPUT = [f"B{n}" for n in range(1, 29)]


def named_tests(fault):
    """How many tests of each file carry an id in their name."""
    found = Counter()
    for path in TESTS.rglob("test_*.py"):
        names = re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
        found[str(path.relative_to(TESTS))] = sum(f"_{fault}_" in name for name in names)
    return {file: n for file, n in found.items() if n}


@pytest.mark.parametrize("fault", FAULTS + BAD_INPUT)
def test_the_page_says_where_each_fault_is_tested(fault):
    (row,) = re.findall(rf"^\| {fault} \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    listed = {file: int(n) for file, n in re.findall(r"`([\w/.]+)` \((\d+)\)", row[1])}
    assert listed == named_tests(fault)
    assert listed
