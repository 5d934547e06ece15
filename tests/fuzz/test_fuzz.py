"""Every decoder, header and file parser keeps its promises, for known inputs and, in the deep test, for new ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from fuzz_crashes import CRASHES
from fuzz_promises import BrokenPromiseError, Target, keep, run_target
from fuzz_targets import TARGETS
from support import KEY

from aiomutex.cli.root import root
from aiomutex.testing import MutexEmulator

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize("name", TARGETS)
def test_known_inputs_break_no_promise(name: str) -> None:
    for data in (*TARGETS[name].seeds, b"", b"\x00", b"\xff\xfe", b"[" * 2000, b'{"a":' * 500, b"9" * 5000):
        run_target(TARGETS[name], data)


@pytest.mark.parametrize(
    ("name", "data"), [pytest.param(name, data, id=f"{name}: {what}") for name, what, data in CRASHES]
)
def test_inputs_that_once_broke_a_promise_do_not_any_more(name: str, data: bytes) -> None:
    run_target(TARGETS[name], data)


def test_an_undecodable_line_is_written_to_the_failures_with_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b'{"group_id":"1\xff","slot_index":1,"experiments":[1]}\n'
    with MutexEmulator(groups=1) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", KEY)
        arguments = ["slots", "bulk", "-", "--failures", str(tmp_path / "failures")]
        assert CliRunner().invoke(root, arguments, input=line).exit_code == 1
    kept = (tmp_path / "failures").read_bytes()
    assert kept == b'{"group_id": "1\xff", "slot_index": 1, "experiments": [1], "reason": "not valid UTF-8"}\n'


def test_every_target_documents_its_promise() -> None:
    assert all(target.read.__doc__ and target.seeds for target in TARGETS.values())


def test_a_broken_promise_and_a_slow_target_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> None:
        keep(data != b"no", "does not hold")

    run_target(Target(read, ()), b"yes")
    with pytest.raises(BrokenPromiseError, match="does not hold"):
        run_target(Target(read, ()), b"no")
    monkeypatch.setattr("fuzz_promises.SLOWEST", -1.0)
    with pytest.raises(BrokenPromiseError, match="s for 3 bytes"):
        run_target(Target(read, ()), b"yes")


@pytest.mark.deep
def test_new_inputs_break_no_promise() -> None:
    done = subprocess.run(
        [sys.executable, RUN, "--runs", "1000"], capture_output=True, text=True, timeout=300, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    targets = re.findall(r"^(\w+) +([\d,]+) inputs +([\d,]+) edges", done.stdout, re.MULTILINE)
    runs = {name: int(count.replace(",", "")) for name, count, _ in targets}
    assert runs == {name: max(1, round(1000 * target.share)) for name, target in TARGETS.items()}
    assert all(int(edges.replace(",", "")) > 5 for _, _, edges in targets), "a target does not reach the library"
