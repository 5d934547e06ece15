"""Fuzz the targets with atheris, which is coverage-guided (Linux x86-64).

    pip install -e '.[fuzz]'
    python tests/fuzz/run.py --runs 100000               # each target; slow ones get fewer
    python tests/fuzz/run.py --runs 20000 group dialect  # some targets
    python tests/fuzz/run.py --list

It prints one line for each target. If a promise was broken, it prints the input and the traceback and exits with 1.
Once the cause is fixed, the input belongs in ``fuzz_crashes.py``.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final, NamedTuple

HERE: Final = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

_DONE: Final = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+)", re.MULTILINE)


class Outcome(NamedTuple):
    """The outcome of one target."""

    runs: int
    paths: int
    """Edges of the library's code that the inputs reached."""
    seconds: float
    crash: str


def fuzz_in_child(name: str, runs: int, seed: int, folder: Path) -> Outcome:
    """Fuzz one target in a child process, so that targets do not affect each other."""
    log = folder / f"{name}.log"
    started = time.monotonic()
    child = os.fork()
    if not child:
        _run_child(name, runs, seed, folder, log)
    _, status = os.waitpid(child, 0)
    output = log.read_text(errors="replace")
    done = _DONE.search(output)
    crash = ""
    if os.waitstatus_to_exitcode(status) or not done:
        inputs = "".join(f"\ninput: {path.read_bytes()!r}" for path in folder.glob(f"{name}-*"))
        crash = f"{output[max(0, output.find('=== Uncaught')) :][-6000:]}{inputs[:20_000]}\n"
    return Outcome(int(done[1]) if done else 0, int(done[2]) if done else 0, time.monotonic() - started, crash)


def _run_child(name: str, runs: int, seed: int, folder: Path, log: Path) -> None:
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        _fuzz(name, runs, seed, folder)
    except BaseException:  # noqa: BLE001  # the child must never return into the code of the parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)


def _fuzz(name: str, runs: int, seed: int, folder: Path) -> None:
    from fuzz_mutator import json_mutator  # noqa: PLC0415  # instrumented by main
    from fuzz_promises import run_target  # noqa: PLC0415  # instrumented by main
    from fuzz_targets import TARGETS  # noqa: PLC0415  # instrumented by main

    logging.disable(logging.WARNING)
    target = TARGETS[name]
    corpus = folder / f"corpus-{name}"
    corpus.mkdir()
    for number, given in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(given)
    words = folder / f"words-{name}"
    words.write_text("\n".join(f'"{_escaped(word)}"' for word in (*target.words, "NaN", "9999999999999999999")))

    def read(data: bytes) -> None:
        try:
            run_target(target, data)
        except BaseException:
            (folder / f"{name}-broken").write_bytes(data)
            raise

    fuzzer: Any = importlib.import_module("atheris")
    fuzzer.Setup(
        [
            name,
            f"-runs={runs}",
            f"-seed={seed}",
            f"-max_len={target.longest}",
            f"-dict={words}",
            f"-artifact_prefix={folder}/{name}-",
            "-timeout=20",
            "-rss_limit_mb=1536",
            "-print_final_stats=0",
            str(corpus),
        ],
        read,
        # ``Mutate`` is replaced when the fuzzer starts, so it must be looked up at each call.
        custom_mutator=json_mutator(target.words, lambda data, longest: fuzzer.Mutate(data, longest)),  # noqa: PLW0108
    )
    fuzzer.Fuzz()


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="0 uses a different seed each time")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()

    fuzzer: Any = importlib.import_module("atheris")  # not needed for --help
    with fuzzer.instrument_imports(include=["aiomutex"], enable_loader_override=False):
        from fuzz_targets import TARGETS  # noqa: PLC0415  # instrumented by the block around it

    if options.list:
        print(
            "\n".join(f"{name:14} {' '.join((target.read.__doc__ or '').split())}" for name, target in TARGETS.items())
        )
        return
    if unknown := sorted(set(options.targets) - TARGETS.keys()):
        parser.error(f"unknown targets: {', '.join(unknown)}; --list shows all")
    total, crashes = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.targets or TARGETS:
            outcome = fuzz_in_child(name, max(1, round(options.runs * TARGETS[name].share)), options.seed, Path(folder))
            total += outcome.runs
            crashes += bool(outcome.crash)
            rate = outcome.runs / outcome.seconds
            print(f"{name:14} {outcome.runs:>9,} inputs {outcome.paths:>6,} edges {rate:>7,.0f}/s", flush=True)
            if outcome.crash:
                print(f"{name}: BROKEN\n{outcome.crash}", flush=True)
    print(f"{'total':14} {total:>9,} inputs, broken targets: {crashes}")
    sys.exit(1 if crashes else 0)


if __name__ == "__main__":
    main()
