"""``python -m benchmarks``: run benchmarks, print their tables and goals."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from pathlib import Path

import msgspec

from benchmarks import LONG, NAMES
from benchmarks.harness import Goal, Result, Size, WrongResultError, rendered


class Record(msgspec.Struct):
    """A run, as stored in a file."""

    machine: str
    size: str
    results: dict[str, Result]


def machine() -> str:
    """Describe this machine for readers of the figures."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"


def measured(name: str, size: Size) -> Result:
    """Run one benchmark. If a package is missing, the result names it."""
    try:
        module = importlib.import_module(f"benchmarks.{name}")
        result = module.run(size)
    except ImportError as error:
        missing = (error.name or str(error)).split(".")[0]
        if missing in ("aiomutex", "benchmarks"):
            raise
        return Result([], skipped=f"{missing} is not installed (pip install -e '.[test,bench]')")
    if not isinstance(result, Result):
        raise WrongResultError(f"benchmarks.{name} returned {result!r}")
    return result


def goals_table(goals: list[Goal]) -> str:
    """Render the goals as text, each with the figure that was reached."""
    heads = ("what", "goal", "reached", "")
    cells = [(each.what, each.goal, each.reached, "met" if each.met else "MISSED") for each in goals]
    widths = [max(len(row[column]) for row in (heads, *cells)) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(heads, widths, strict=True)).rstrip()]
    lines.append("  ".join("-" * width for width in widths))
    for each, row in zip(goals, cells, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if each.note:
            lines.append(f"    {each.note}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Return 1 if a result was wrong; a missed goal is not an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"goals, or any of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small amounts: check the results in about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements to this file")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="read measurements from this file")
    parser.add_argument("--svg", type=Path, metavar="DIR", help="draw charts; needs the extra 'charts'")
    options = parser.parse_args(arguments)
    only_goals = options.names == ["goals"]
    names = tuple(options.names)
    if only_goals or not names:
        names = tuple(name for name in NAMES if not options.quick or name not in LONG)
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown benchmarks: {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}")
    size = Size.QUICK if options.quick else Size.FULL
    record = Record(machine(), size.value, {})
    if options.source:
        record = msgspec.json.decode(options.source.read_bytes(), type=Record)
    print(record.machine + (" · quick run, too small to judge the figures" if record.size != Size.FULL.value else ""))
    wrong = False
    # With --from, only the named benchmarks are measured again.
    for name in names if not options.source or (options.names and not only_goals) else ():
        start = time.perf_counter()
        try:
            result = measured(name, size)
        except WrongResultError as error:
            print(f"\n== {name}: WRONG: {error}", file=sys.stderr)
            wrong = True
            continue
        record.results[name] = result
        if not only_goals:
            print(f"\n== {name} ({time.perf_counter() - start:.0f} s)", flush=True)
            print("\n\n".join(map(rendered, result.tables)) if not result.skipped else f"skipped: {result.skipped}")
    goals = [goal for result in record.results.values() for goal in result.goals]
    if goals:
        print(f"\n{goals_table(goals)}")
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    if options.svg:
        from benchmarks.charts import draw  # noqa: PLC0415  # matplotlib is in an extra

        print("\n".join(str(path) for path in draw(record.results, options.svg)))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
