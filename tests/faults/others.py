"""The tests of what else may fail, as one table."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections import Counter, defaultdict
from pathlib import Path

from tests.architecture.modules import REPOSITORY
from tests.faults.tables import aligned

SHORT_FORMS = ("test_sweep.py", "test_crash_states.py")
"""Of what other parts do at length."""
OF_THE_STORE = ("test_damage.py", "test_locks.py")


def run() -> tuple[str, list[str]]:
    """A row for each module of tests, which its docstring names, and the tests that failed."""
    tests = REPOSITORY / "tests"
    modules = [path for path in sorted(tests.glob("faults/test_*.py")) if path.name not in SHORT_FORMS]
    modules += [tests / "store" / name for name in OF_THE_STORE]
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        argv = [sys.executable, "-m", "pytest", "-q", "--no-header", f"--junit-xml={report.name}", *map(str, modules)]
        subprocess.run(argv, cwd=REPOSITORY, check=False, stdout=sys.stderr)
        cases = list(xml.parse(report.name).iter("testcase"))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failed = []
    for case in cases:
        module = case.attrib["classname"].rpartition(".")[2]
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "held")
        counts[module][outcome] += 1
        if outcome in ("failure", "error"):
            file = case.attrib["classname"].replace(".", "/")
            failed.append(f"python -m pytest {file}.py -k {case.attrib['name']!r}")
    rows = [("what happens", "tests", "held", "skipped", "VIOLATIONS")]
    for path in modules:
        found = counts[path.stem]
        numbers = (found.total(), found["held"], found["skipped"], found["failure"] + found["error"])
        rows.append((_title(path), *map(str, numbers)))
    if not cases:
        failed.append("no test ran")
    return aligned(rows, texts=1), failed


def _title(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or path.stem
    return " ".join(docstring.split()).partition(".")[0].partition(":")[0]
