"""Whatever becomes of the output, and whatever is in it, no command ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from commands import commands

from aiomutex.plan import Plan, save_plan

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex.testing import MutexEmulator

NAME = "Größe 中 é"
GROUP = (
    "groups: [{projectId: 1, key: group-1, name: 中, slots: [{percentage: 34, individuals: [Ж]}, {percentage: 33}, "
    "{percentage: 33}]}]"
)
CALLS: dict[str, list[str]] = {
    "groups list": [],
    "groups get": ["1"],
    "groups create": ["--project", "1", "--name", NAME, "--slot", "100"],
    "groups edit": ["1", "--name", NAME],
    "groups archive": ["5"],
    "slots edit": ["1", "1", "--individuals", "Ж", "--verify"],
    "slots bulk": ["edits.jsonl", "--failures", "failures.jsonl"],
    "pull": ["groups.json"],
    "plan": ["groups.yaml"],
    "show": ["groups.plan"],
    "apply": ["groups.yaml", "--yes"],
    "completion": ["bash"],
    "lint": ["groups.yaml"],
    "report": ["--out", "groups.html"],
    "traffic show": [],
    "traffic capacity": ["--states"],
    "traffic explain": ["Ж"],
    "traffic where": ["Ж", "--group", "中"],
    "traffic simulate": ["users.txt", "--plan", "groups.yaml"],
    "probe": [],
    "demo": ["--groups", "1"],
    "emulator": ["--host", "中"],
}
STREAMS = ["", ">&-", "2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true", ">/dev/full"]
HAS_JSON = {" ".join(words) for words, each in commands() if any(option.name == "as_json" for option in each.params)}
ALL = [*CALLS, *(f"{words} --json" for words in CALLS if words in HAS_JSON), "nonsense", "plan --help"]
QUICK = {"groups list", "groups get --json", "slots bulk", "apply", "nonsense"}


def test_every_command_is_called() -> None:
    assert set(CALLS) == {" ".join(words) for words, _ in commands()}
    assert set(ALL) >= QUICK


@pytest.mark.parametrize("call", [pytest.param(each, marks=() if each in QUICK else pytest.mark.deep) for each in ALL])
def test_no_command_ends_in_a_traceback(call: str, service: MutexEmulator, tmp_path: Path) -> None:
    for group in service.groups.values():
        group.name = group.description = NAME
        group.slots[0].individuals = ["Ж"]
    (tmp_path / "groups.yaml").write_text(GROUP, encoding="utf-8")
    (tmp_path / "users.txt").write_text("Ж\n", encoding="utf-8")
    save_plan(Plan(exceeded_thresholds=["中"]), tmp_path / "groups.plan")
    (tmp_path / "edits.jsonl").write_text('{"group_id": "中", "slot_index": 1, "individuals": ["Ж"]}\n', "utf-8")
    words, _, json = call.partition(" --")
    command = [sys.executable, "-m", "aiomutex", *words.split(), *CALLS.get(words, []), *([f"--{json}"] * bool(json))]
    running = [
        (streams, encoding, start([*command], streams, encoding))
        for streams in STREAMS
        for encoding in (("utf-8", "latin-1", "ascii") if not streams else ("latin-1",))
    ]
    for streams, encoding, process in running:
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in out + err, (streams, encoding, err)
        assert "Exception ignored" not in out + err, (streams, encoding, err)
        assert process.returncode in range(5), (streams, encoding)


def start(command: list[str], streams: str, encoding: str) -> subprocess.Popen[str]:
    """Start a command with a redirection of a shell, whose exit code is the command's."""
    shell = ["bash", "-o", "pipefail", "-c", f'"$@" {streams}', "bash", *command]
    return subprocess.Popen(
        shell,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def test_what_an_encoding_lacks_is_escaped(service: MutexEmulator) -> None:
    service.groups["1"].name = NAME
    process = start([sys.executable, "-m", "aiomutex", "groups", "get", "1"], "", "latin-1")
    out, _ = process.communicate(timeout=60)
    assert r"\u4e2d" in out
    assert "34 %  #######............." in out


def test_a_file_name_that_is_not_utf_8_can_be_planned_and_saved(service: MutexEmulator, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.yaml")
    (tmp_path / name).write_text(GROUP, encoding="utf-8")
    for words in (["plan", name, "--out", f"{name}.plan"], ["apply", f"{name}.plan", "--yes"], ["lint", name]):
        out, err = start([sys.executable, "-m", "aiomutex", *words], "", "utf-8").communicate(timeout=60)
        assert "Traceback" not in err
        assert out
