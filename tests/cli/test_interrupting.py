"""Ctrl-C ends a run cleanly, even while it waits for input that never comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support import until

from aiomutex.cli.edits_file import READ_AHEAD, read_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from aiomutex.testing import MutexEmulator


def line(group: int, experiment: int) -> str:
    return json.dumps({"group_id": str(group), "slot_index": 1, "experiments": [experiment]}) + "\n"


def start(*words: str, stdin: int = subprocess.DEVNULL, grace: float = 10.0) -> subprocess.Popen[str]:
    code = f"from aiomutex.cli import main, run; run._GRACE = {grace}; main()"
    # With strict errors, click wraps standard input in a new text stream.
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def bulk(*words: str, stdin: int = subprocess.DEVNULL, grace: float = 10.0) -> subprocess.Popen[str]:
    canary = () if "--undo" in words else ("--no-canary",)  # many requests are to be in flight soon
    return start("slots", "bulk", *words, *canary, stdin=stdin, grace=grace)


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)


def interrupted_output(process: subprocess.Popen[str], code: int = 130) -> tuple[str, str]:
    """Return what the process printed. It must exit although its standard input stays open."""
    assert process.wait(timeout=20) == code
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
        # A signal between Python's last look for one and the system call would be noticed only after the read.
        for _ in range(5):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
                break
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
    out, err = interrupted_output(process)
    assert out == "0 applied, 0 failed, 5 unknown, 0 done earlier, 15 never tried; 5 requests\n"
    assert err.splitlines() == ["Not resumable: run with --journal next time."], "the list is in the file"
    failed = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in failed] == ["in flight when the run was left"] * 5


# ------------------------------------------------------------------ SIGTERM


def total(out: str) -> int:
    return sum(int(count.replace(",", "")) for count in re.findall(r"([\d,]+) [a-z ]+[,;]", out))


def test_sigterm_waits_a_while_for_requests_in_flight_and_sends_nothing_new(
    service: MutexEmulator, tmp_path: Path
) -> None:
    service.fail_next(5, kind="stall", after_commit=True, method="PATCH")
    (tmp_path / "e.jsonl").write_text("".join(line(1 + n % 5, n) for n in range(20)))
    process = bulk("e.jsonl", "--journal", "run.db", grace=1)
    wait_until(lambda: len(service.commits) == 5, process)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = interrupted_output(process, 143)
    assert 0.9 < time.monotonic() - started < 8
    assert out.startswith("5 applied, 0 failed, 0 unknown, 0 done earlier, 15 never tried"), "the slots were read"
    assert "To resume, run the same command again: run.db holds the progress." in err
    assert len(service.commits) == 5
    with bulk("e.jsonl", "--journal", "run.db") as again:
        assert again.stdout is not None
        assert again.stdout.read().startswith("15 applied, 0 failed, 0 unknown, 5 done earlier, 0 never tried")


def test_sigterm_ends_a_run_that_cannot_be_read_back(service: MutexEmulator, tmp_path: Path) -> None:
    service.latency = 3_600
    (tmp_path / "e.jsonl").write_text("".join(line(1 + n % 5, n) for n in range(20)))
    process = bulk("e.jsonl", grace=0.5)
    wait_until(lambda: len(service.commits) == 5, process)
    process.send_signal(signal.SIGTERM)
    out, _ = interrupted_output(process, 143)
    assert out.startswith("0 applied, 0 failed, 5 unknown, 0 done earlier, 15 never tried")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_only_ctrl_c_lets_requests_be_sent_again(
    number: signal.Signals, code: int, service: MutexEmulator, tmp_path: Path
) -> None:
    service.fail_next(1, status=503)
    (tmp_path / "e.jsonl").write_text("".join(line(1, n) for n in range(20)))
    service.latency = 0.3
    process = bulk("e.jsonl", grace=3)
    wait_until(lambda: service.requests, process)
    process.send_signal(number)
    out, err = interrupted_output(process, code)
    assert [request.method for request in service.requests].count("PATCH") == (1 if code == 143 else 2), err
    assert total(out.partition(";")[0] + ";") == 20
    assert out.startswith("0 applied" if code == 143 else "1 applied")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_apply_and_undo_stop_and_can_be_resumed(
    number: signal.Signals, code: int, service: MutexEmulator, tmp_path: Path
) -> None:
    slots = [{"percentage": share, "experiments": [share]} for share in (34, 33, 33)]
    plan = {"groups": [{"projectId": 1, "key": f"group-{n}", "slots": slots} for n in range(1, 6)]}
    (tmp_path / "groups.json").write_text(json.dumps(plan))
    before = {key: [slot.experiments for slot in group.slots] for key, group in service.groups.items()}
    after = {key: [[34], [33], [33]] for key in before}
    command = ("apply", "groups.json", "--yes", "--journal", "apply.db")
    undo = ("slots", "bulk", "--undo", "apply.db")
    for words, expected in ((command, after), (undo, before)):
        service.latency = 0.1
        service.requests.clear()
        process = start(*words)
        wait_until(lambda: any(request.method == "PATCH" for request in service.requests), process)
        process.send_signal(number)
        out, err = interrupted_output(process, code)
        sent = len(service.requests)
        counts = out.splitlines()[-1]
        assert total(counts.partition(";")[0] + ";") == 15, counts
        assert not counts.startswith("0 applied")
        assert " 0 never tried" not in counts
        assert "0 failed, 0 unknown" in counts, err
        assert err.endswith("To resume, run the same command again.\n")
        assert sent == len(service.requests)
        service.latency = 0.0
        with start(*words) as again:
            assert again.stdout is not None
            assert "0 failed, 0 unknown" in again.stdout.read()
        assert {key: [slot.experiments for slot in group.slots] for key, group in service.groups.items()} == expected


def test_a_second_ctrl_c_ends_an_undo_with_a_summary(service: MutexEmulator, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text("".join(line(1 + n % 5, n) for n in range(5)))
    with bulk("e.jsonl", "--journal", "run.db") as first:
        assert first.wait(20) == 0
    service.fail_next(3, kind="stall", method="PATCH")
    sent = len(service.requests)
    process = bulk("--undo", "run.db")
    wait_until(lambda: len(service.requests) - sent == 10, process)  # 5 reads, 5 writes
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Stopping" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = interrupted_output(process)
    assert out.startswith("0 applied, 0 failed, 5 unknown, 0 done earlier, 0 never tried; ")
    assert err == "To resume, run the same command again.\n"


def test_sigterm_ends_an_emulator_that_a_script_started_in_the_background(tmp_path: Path) -> None:
    script = f"{sys.executable} -m aiomutex emulator --port 0 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as shell:
        assert shell.stdout is not None
        number = int(shell.stdout.readline())
        assert "The emulator listens on" in shell.stdout.readline()
        os.kill(number, signal.SIGTERM)
        try:
            assert shell.wait(20) == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


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
