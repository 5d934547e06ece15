"""Run seeds: ``python -m tests.simulation --runs 1000``, or replay one with ``--seed 17 --trace``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "limits"))

import msgspec

from .drawing import draw
from .running import command_of, run_scenario, shrink  # virtual_time is in tests/limits
from .scenario import Scenario


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="run one seed")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--scenario", help="run a scenario saved as JSON instead")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    parser.add_argument("--shrink", action="store_true", help="reduce a failing scenario, and print it as JSON")
    parser.add_argument("--only", help="look at this invariant only")
    options = parser.parse_args()
    seeds = range(options.start, options.start + options.runs) if options.seed is None else [options.seed]
    started, failed = time.perf_counter(), Counter[str]()
    for seed in seeds:
        if options.scenario:
            scenario = msgspec.json.decode(Path(options.scenario).read_bytes(), type=Scenario)
        else:
            scenario = draw(seed)
        result = run_scenario(scenario, tracing=options.trace, only=options.only)
        if options.trace:
            print("\n".join(result.lines))
        if not result.violations:
            continue
        failed.update({each.invariant for each in result.violations})
        print(f"\nseed {seed}: {command_of(seed)}")
        for each in result.violations[:5]:
            print(f"  {each}")
        if options.shrink:
            smaller = shrink(scenario, result.violations[0].invariant)
            print(msgspec.json.encode(smaller).decode())
            small = run_scenario(smaller, tracing=True, only=options.only)
            print("\n".join(small.lines))
            print("\n".join(f"  {each}" for each in small.violations))
        if options.scenario:
            break
    took = time.perf_counter() - started
    print(f"\n{len(seeds):,} runs in {took:.1f} s; broken: {dict(failed) or 'nothing'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
