"""Change the code at random places, one at a time, and see whether the tests notice.

    pip install -e '.[test]'
    python tests/mutation.py --changes 100              # seed 1
    python tests/mutation.py --changes 100 --seed 7 --only aiomutex/limits aiomutex/bulk

First all default tests and those with Redis run once, to learn which test runs which line. Then each change is made in
a copy of the source, and the tests that run its line must fail. A change in a line that no test runs survives.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import coverage

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
LEFT_OUT: Final = ("aiomutex/cli/", "aiomutex/bulk/report.py", "aiomutex/__main__.py", "aiomutex/testing.py")
"""The command line, and what is imported before coverage starts."""
MOST_TESTS: Final = 150
"""The most tests that run for one change."""
OTHER: Final[dict[type, type]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip


class Change(NamedTuple):
    """One change of the source."""

    path: str
    lines: range
    """The lines of its statement."""
    line: int
    before: str
    after: str
    source: str
    """The whole changed file."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {' '.join(self.before.split())}  ->  {' '.join(self.after.split())}"


def _others_of(node: Any) -> Iterator[ast.AST]:
    """What an expression or statement may be changed to."""
    changed = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        changed.ops[0] = OTHER[type(node.ops[0])]()
    elif isinstance(node, ast.BoolOp | ast.BinOp | ast.AugAssign) and type(node.op) in OTHER:
        changed.op = OTHER[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        changed = node.operand
    elif isinstance(node, ast.IfExp):
        changed.body, changed.orelse = node.orelse, node.body
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        value: Any = node.value
        changed.value = (not value) if isinstance(value, bool) else value + 1
    elif isinstance(node, ast.Return) and node.value is not None:
        changed.value = ast.Constant(None)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
        changed = ast.Pass()
    elif isinstance(node, ast.Break | ast.Continue):
        changed = ast.Continue() if isinstance(node, ast.Break) else ast.Break()
    else:
        return
    yield changed


def _nodes(parent: ast.AST, statement: ast.stmt | None) -> Iterator[tuple[ast.AST, ast.stmt]]:
    """Each node with its statement, without type annotations and what only a type checker sees."""
    for name, value in ast.iter_fields(parent):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        found: Any = value
        for child in found if isinstance(value, list) else [found]:
            if not isinstance(child, ast.AST) or "TYPE_CHECKING" in ast.unparse(getattr(child, "test", child))[:13]:
                continue
            of = child if isinstance(child, ast.stmt) else statement
            if of is not None:
                yield child, of
            yield from _nodes(child, of)


def changes_of(path: str) -> Iterator[Change]:
    """All changes of one file."""
    data = (ROOT / path).read_bytes()
    starts: list[int] = [0, *(found.end() for found in re.finditer(b"\n", data))]
    for node, statement in _nodes(ast.parse(data), None):
        if not hasattr(node, "lineno"):
            continue
        place: Any = cast("Any", node)
        start = starts[int(place.lineno) - 1] + int(place.col_offset)
        end = starts[int(place.end_lineno) - 1] + int(place.end_col_offset)
        body: Any = getattr(statement, "body", None)
        last: int = body[0].lineno - 1 if body else place.end_lineno
        for other in _others_of(node):
            text = ast.unparse(other)
            text = f"({text})" if isinstance(other, ast.expr) else text
            source = (data[:start] + text.encode() + data[end:]).decode()
            yield Change(
                path, range(statement.lineno, max(last, place.lineno) + 1), place.lineno,
                data[start:end].decode(), text, source,
            )  # fmt: skip


def learn(folder: Path) -> dict[str, dict[int, list[str]]]:
    """Run the tests once; return the tests of each line of each file."""
    data = folder / "coverage"
    command = [
        "-m",
        "pytest",
        "-q",
        "-n",
        "4",
        "-m",
        "not deep",
        "--cov=aiomutex",
        "--cov-context=test",
        "--cov-report=",
    ]
    environment = os.environ | {"COVERAGE_FILE": str(data)}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False)
    return tests_of(data)


def tests_of(data: Path) -> dict[str, dict[int, list[str]]]:
    """The tests of each line of each file, from a file of coverage with contexts."""
    measured = coverage.CoverageData(str(data))
    measured.read()
    found: dict[str, dict[int, list[str]]] = {}
    for file in measured.measured_files():
        path = file[file.rindex("/aiomutex/") + 1 :]
        by_line = measured.contexts_by_lineno(file)
        found[path] = {line: [each.split("|")[0] for each in tests if each] for line, tests in by_line.items()}
    return found


def is_caught(change: Change, tests: list[str], folder: Path, timeout: float) -> bool:
    """Whether a test fails, or none ends in time, once the change is made in the copy in ``folder``."""
    file = folder / change.path
    original = file.read_text("utf-8")
    file.write_text(change.source, "utf-8")
    (folder / "tests.txt").write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "", "@tests.txt"]
    try:
        environment = os.environ | {"PYTHONPATH": str(folder)}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=timeout, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return True
    finally:
        file.write_text(original, "utf-8")
    return done.returncode != 0


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=["aiomutex"], help="files or folders")
    parser.add_argument("--coverage", type=Path, help="coverage of an earlier run, with the test as its context")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop after that time")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the tests of one change")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    paths = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("aiomutex/**/*.py"))
    paths = [path for path in paths if path.startswith(tuple(options.only)) and not path.startswith(LEFT_OUT)]
    changes = [change for path in paths for change in changes_of(path)]
    sample = rng.sample(changes, min(options.changes, len(changes)))
    counts: Counter[str] = Counter()
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("aiomutex", "tests", "benchmarks", "pyproject.toml", "README.md"):
            target = folder / part
            (shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile)(ROOT / part, target)
        known = tests_of(options.coverage) if options.coverage else learn(folder)
        for number, change in enumerate(sample):
            if time.monotonic() > until:
                break
            if number % 20 == 19:
                print(f"{counts['caught']} of {number} caught", flush=True)
            lines = known.get(change.path, {})
            tests = sorted({test for line in change.lines for test in lines.get(line, ())})
            chosen = rng.sample(tests, min(MOST_TESTS, len(tests)))
            caught = bool(chosen) and is_caught(change, chosen, folder, options.timeout)
            counts["caught" if caught else "survived"] += 1
            if not caught:
                print(f"survived {len(chosen)} tests: {change}", flush=True)
    total = sum(counts.values())
    print(f"{counts['caught']} of {total} changes caught, of {len(changes):,} possible; seed {options.seed}")


if __name__ == "__main__":
    main()
