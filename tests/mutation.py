"""Change the code at random places, one at a time, and see whether the tests notice.

    pip install -e '.[test]'
    python tests/mutation.py --changes 100              # seed 1
    python tests/mutation.py --changes 100 --seed 7 --only aiomutex/limits aiomutex/bulk

First all default tests and those with Redis run once, to learn which test runs which line. Then each change is made in
a copy of the source, and a test that runs its line must fail. A change in a line that no test runs survives. In the
end, tests run for one change in fifty without it: how many of them fail shows how many changes were caught by chance.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import itertools
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from xml.etree.ElementTree import parse

import coverage
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
LEFT_OUT: Final = ("aiomutex/cli/", "aiomutex/bulk/report.py", "aiomutex/__main__.py", "aiomutex/testing.py")
"""The command line, and what is imported before coverage starts."""
FORKS: Final = multiprocessing.get_context("forkserver")
"""Each change runs in a fork of a process that has imported all but the package: that takes longest."""
TICKS: Final = itertools.count(1)
IMPORTED: Final = ["pytest", "hypothesis.core", "hypothesis.strategies", "faker", "schemathesis", "aiohttp", "msgspec"]
MOST_CPU: Final = 600
"""Seconds of processor time that the tests of one change may take."""
START: Final = 0.1
"""Seconds that a test takes beside its own."""
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
    if ast.dump(changed) != ast.dump(node):
        yield changed


def _nodes(parent: ast.AST, statement: ast.stmt | None) -> Iterator[tuple[ast.AST, ast.stmt]]:
    """Each node with its statement, without type annotations and what only a type checker sees."""
    if any("overload" in ast.unparse(each) for each in getattr(parent, "decorator_list", ())):
        return
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


class Known(NamedTuple):
    """What the tests did without a change."""

    tests: dict[str, dict[int, list[str]]]
    """The tests of each line of each file."""
    seconds: dict[str, float]
    """How long each test took."""


def learn(folder: Path) -> Known:
    """Run the tests once, or read what an earlier run left in ``folder``."""
    data, times = folder / "coverage", folder / "times.xml"
    if not times.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["-q", "-n", "4", "-m", "not deep", "--cov=aiomutex", "--cov-context=test", "--cov-report="]
        environment = os.environ | {"COVERAGE_FILE": str(data)}
        subprocess.run(
            [sys.executable, "-m", "pytest", *command, f"--junitxml={times}"], cwd=ROOT, env=environment, check=False
        )  # fmt: skip
    seconds: dict[str, float] = {}
    for case in parse(times).iter("testcase"):
        # The name of a class would be a part of this path; there is none.
        seconds[f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"] = float(case.attrib["time"])
    return Known(tests_of(data), seconds)


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


def chosen_for(change: Change, known: Known, rng: random.Random, seconds: float) -> list[str]:
    """The tests to run for a change, for ``seconds``: some that run its line, those of its module and package first.

    A line outside all functions runs when it is imported, before any test: it gets tests of the whole file.
    """
    lines = known.tests.get(change.path, {})
    tests = sorted({test for line in change.lines for test in lines.get(line, ())})
    if not tests and any(line in lines for line in change.lines):
        tests = sorted({test for those in lines.values() for test in those})
    folder, module = change.path.removeprefix("aiomutex/").removesuffix(".py").rpartition("/")[::2]

    def order(test: str) -> tuple[bool, bool, bool]:
        name = test.partition("::")[0].removeprefix("tests/")
        is_slow = known.seconds.get(test, 1.0) > seconds / 20
        return is_slow, f"test_{module}" not in name, not name.startswith(f"{folder}/")

    in_order = sorted(rng.sample(tests, len(tests)), key=order)
    together = itertools.accumulate(known.seconds.get(test, 1.0) + START for test in in_order)
    return [test for test, until in zip(in_order, together, strict=True) if until <= seconds] or tests[:1]


def run_tests(folder: Path, tests: list[str]) -> None:
    """Run tests with the package in ``folder``, in a process of its own; exit with the code of pytest."""
    os.setsid()  # with all that the tests start
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU, MOST_CPU))  # an endless loop ends even if nobody ends it
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Pytest does not like plugins that are imported already.
    ignored = "ignore::pytest.PytestAssertRewriteWarning"
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "", "-W", ignored, *tests]))


def outcome_of(change: Change, tests: list[str], folder: Path, timeout: float) -> tuple[str, str]:
    """Make the change in the copy in ``folder``: is it caught, does it survive, or do the tests not end in time?

    Returns:
        That, and the test that caught it.
    """
    if not tests:
        return "survived", ""
    file = folder / change.path
    original, before = file.read_text("utf-8"), file.stat().st_mtime
    file.write_text(change.source, "utf-8")
    os.utime(file, (before, before + next(TICKS)))  # else Python might take an earlier change for this one
    process = FORKS.Process(target=run_tests, args=(folder, tests))
    try:
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            return "timed out", ""
    finally:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # it may not have had its own group yet
            process.join()
        file.write_text(original, "utf-8")
        os.utime(file, (before, before))
    failed = re.search("^(FAILED|ERROR) (.*)", (folder / "output.txt").read_text("utf-8", "replace"), re.MULTILINE)
    return "caught" if process.exitcode else "survived", failed[2] if failed else ""


def copy_to(folder: Path) -> Path:
    """Copy what the tests need."""
    for part in ("aiomutex", "tests", "benchmarks", "pyproject.toml", "README.md"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile)(ROOT / part, folder / part)
    return folder


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="the first change of the sample, to go on with it")
    parser.add_argument("--only", nargs="*", default=["aiomutex"], help="files or folders")
    parser.add_argument("--again", type=Path, help="output of an earlier run, whose survivors to try again")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the tests of a change take together")
    parser.add_argument("--known", type=Path, help="folder for what the run without a change showed, to be used again")
    parser.add_argument("--jobs", type=int, default=2, help="changes that are tried at once")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the tests of one change")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    paths = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("aiomutex/**/*.py"))
    paths = [path for path in paths if path.startswith(tuple(options.only)) and not path.startswith(LEFT_OUT)]
    changes = [change for path in paths for change in changes_of(path)]
    sample = rng.sample(changes, min(options.changes, len(changes)))[options.start :]
    if options.again:
        survivors = set(re.findall("^survived, .*? tests: (.*?)  $", options.again.read_text("utf-8"), re.MULTILINE))
        sample = [change for change in sample if str(change) in survivors]
    counts: Counter[str] = Counter()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each fork would compile all tests
    sys.dont_write_bytecode = False
    FORKS.set_forkserver_preload(IMPORTED)
    with tempfile.TemporaryDirectory() as name:
        known = learn(options.known or Path(name) / "known")
        idle: Queue[Path] = Queue()
        for job in range(options.jobs):
            (Path(name) / str(job)).mkdir()
            idle.put(copy_to(Path(name) / str(job)))

        def attempt(change: Change, tests: list[str]) -> tuple[str, str]:
            folder = idle.get()
            try:
                return outcome_of(change, tests, folder, options.timeout)
            finally:
                idle.put(folder)

        unchanged = [change._replace(source=(ROOT / change.path).read_text("utf-8")) for change in sample[::50]]
        tried = [*sample, *unchanged]
        chosen = [chosen_for(change, known, rng, options.seconds) for change in tried]
        with ThreadPoolExecutor(options.jobs) as pool:
            for number, (outcome, by) in enumerate(pool.map(attempt, tried, chosen)):
                is_changed = number < len(sample)
                counts[outcome if is_changed else f"{outcome} without a change"] += 1
                if outcome != ("caught" if is_changed else "survived"):
                    print(f"{outcome}, {len(chosen[number])} tests: {tried[number]}  {by}", flush=True)
                if number % 20 == 19:
                    print(f"{options.start + number + 1}: {dict(counts)}", flush=True)
    noticed = counts["caught"] + counts["timed out"]
    chance = len(unchanged) - counts["survived without a change"]
    print(
        f"{noticed} of {len(sample)} changes noticed, {counts['timed out']} of them by a timeout; {chance} of"
        f" {len(unchanged)} runs without a change failed; {len(changes):,} possible changes; seed {options.seed}"
    )


if __name__ == "__main__":
    main()
