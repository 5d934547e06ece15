"""Ctrl-C ends a run cleanly, even while it waits for input that never comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support import until

from aiomutex.cli.background_reader import READ_AHEAD, read_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from aiomutex.testing import MutexEmulator


def line(group: int, experiment: int) -> str:
    return json.dumps({"group_id": str(group), "slot_index": 1, "experiments": [experiment]}) + "\n"


def bulk(*words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aiomutex", "slots", "bulk", *words]
    # With strict errors, click wraps standard input in a new text stream.
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.Popen(
        command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)


def interrupted_output(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what the process printed. It must exit although its standard input stays open."""
    assert process.wait(timeout=20) == 130
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    assert "Traceback" not in err
    assert "Fatal" not in err
    return out, err


def test_edits_are_sent_while_standard_input_stays_open(service: MutexEmulator) -> None:
    process = bulk("-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    for group in range(1, 3):
        process.stdin.write(line(group, 5))
        process.stdin.flush()
        wait_until(lambda: service.groups[str(group)].slots[0].experiments == [5], process)  # noqa: B023
    process.send_signal(signal.SIGINT)
    out, err = interrupted_output(process)
    assert out.startswith("2 applied, 0 failed")
    assert "Stopping" in err


def test_ctrl_c_ends_a_run_that_waits_for_a_named_pipe(service: MutexEmulator, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "edits.jsonl")
    process = bulk("edits.jsonl")
    with (tmp_path / "edits.jsonl").open("w"):  # waits for the reader
        process.send_signal(signal.SIGINT)
        interrupted_output(process)


def test_ctrl_c_ends_a_dry_run_that_waits_for_a_named_pipe(service: MutexEmulator, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "edits.jsonl")
    process = bulk("edits.jsonl", "--dry-run")
    with (tmp_path / "edits.jsonl").open("w"):  # waits for the reader
        process.send_signal(signal.SIGINT)
        assert interrupted_output(process) == ("", "aiomutex: interrupted\n")


def test_a_second_ctrl_c_exits_at_once_and_keeps_the_edits_in_flight(service: MutexEmulator, tmp_path: Path) -> None:
    service.latency = 3_600
    (tmp_path / "e.jsonl").write_text("".join(line(1 + n % 5, n) for n in range(20)))
    process = bulk("e.jsonl", "--failures", "failed.jsonl")
    wait_until(lambda: len(service.commits) == 5, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Stopping" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = interrupted_output(process)
    assert err.splitlines()[-1] == "aiomutex: interrupted"
    assert len((tmp_path / "failed.jsonl").read_text().splitlines()) == 5


# ------------------------------------------------------------------ read_in_thread


async def test_reading_ahead_is_bounded_and_ends_when_the_iterator_is_closed() -> None:
    read = 0
    closed = threading.Event()

    def items() -> Generator[int]:
        nonlocal read
        try:
            while True:
                yield read
                read += 1
        finally:
            closed.set()

    async with contextlib.aclosing(read_in_thread(items())) as numbers:
        assert [await anext(numbers) for _ in range(200)] == list(range(200))
        await until(lambda: read >= 200 + READ_AHEAD)
        await asyncio.sleep(0.01)
        assert read == 200 + READ_AHEAD
    assert await asyncio.to_thread(closed.wait, 10)


async def test_an_error_is_raised_after_the_items_before_it() -> None:
    def items() -> Generator[int]:
        yield 1
        raise OSError("the disk is gone")

    async with contextlib.aclosing(read_in_thread(items())) as numbers:
        assert await anext(numbers) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(numbers)


def test_a_thread_that_outlives_the_event_loop_ends_silently() -> None:
    more = threading.Event()
    closed = threading.Event()

    def items() -> Generator[int]:
        try:
            yield 1
            more.wait(10)
            raise OSError("never reported")
        finally:
            closed.set()

    async def first() -> int:
        async with contextlib.aclosing(read_in_thread(items())) as numbers:
            return await anext(numbers)

    assert asyncio.run(first()) == 1
    more.set()
    assert closed.wait(10)
