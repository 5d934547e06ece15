"""All runs of the command line on this machine share the limits and the day's count of an API key."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import on_a_terminal

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from command_line import Aiomutex

KEY = "a-key-of-some-length"


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "aiomutex"


def edits(count: int, slot: int = 1) -> str:
    path = Path(f"edits-{count}-{slot}.jsonl")
    lines = ({"group_id": str(1 + n % 5), "slot_index": slot, "experiments": [n]} for n in range(count))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def left_today(*words: str) -> int:
    code, shown = on_a_terminal("slots", "bulk", edits(30), *words)
    assert code == 0, shown
    return int(re.findall(r"([\d,]+) left today", shown)[-1].replace(",", ""))


def test_the_day_is_counted_across_runs_and_can_be_corrected(service: MutexEmulator, state: Path) -> None:
    assert 99_960 <= left_today() <= 99_975
    assert 99_930 <= left_today() <= 99_945
    assert 49_960 <= left_today("--used-today", "50000") <= 49_975
    assert 49_930 <= left_today() <= 49_945
    [file] = state.glob("*.db")
    assert re.fullmatch("[0-9a-f]{16}.db", file.name)
    assert file.stat().st_mode & 0o077 == 0
    assert all(KEY.encode() not in each.read_bytes() for each in state.iterdir())


def test_runs_at_the_same_time_share_the_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", KEY)
    with MutexEmulator(groups=5) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        command = [sys.executable, "-m", "aiomutex", "slots", "bulk"]
        runs = [subprocess.Popen([*command, edits(150, slot)], stderr=subprocess.DEVNULL) for slot in (1, 2)]
        assert [run.wait(60) for run in runs] == [0, 0]
        assert (emulator.limits.accepted, emulator.limits.rejected) == (304, 0)  # two canaries


def test_each_key_and_service_has_a_count_but_not_each_port(
    service: MutexEmulator, state: Path, aiomutex: Aiomutex, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MutexEmulator(groups=1) as other:
        for key, url, count in (
            (KEY, service.url, 1),
            (KEY, other.url + "/", 1),
            ("another-key", service.url, 2),
            (KEY, service.url.replace("127.0.0.1", "localhost"), 3),
        ):
            monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", key)
            monkeypatch.setenv("AIOMUTEX_BASE_URL", url)
            assert aiomutex("groups", "get", "1").exit_code == 0
            assert len([*state.glob("*.db")]) == count


@pytest.mark.parametrize("kind", ["file", "link"])
def test_without_a_usable_state_directory_there_is_a_warning(
    kind: str, service: MutexEmulator, state: Path, aiomutex: Aiomutex
) -> None:
    state.parent.mkdir()
    if kind == "file":
        state.write_text("")
    else:
        assert aiomutex("groups", "get", "1").exit_code == 0
        [file] = state.glob("*.db")
        for each in state.iterdir():
            each.unlink()
        target = state / "elsewhere"
        target.write_text("precious")
        file.symlink_to(target)
    done = aiomutex("groups", "get", "1")
    assert done.exit_code == 0
    assert done.stderr.startswith(f"aiomutex: requests are not counted across runs: {state}")
    if kind == "link":
        assert (state / "elsewhere").read_text() == "precious"


def test_a_read_only_home_is_a_warning(
    service: MutexEmulator, state: Path, aiomutex: Aiomutex, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        monkeypatch.setenv("XDG_STATE_HOME", "/proc/self")  # root can create a directory nearly everywhere else
    else:
        state.mkdir(parents=True)
        state.chmod(0o500)
    done = aiomutex("groups", "get", "1")
    assert done.exit_code == 0
    assert "requests are not counted across runs" in done.stderr
