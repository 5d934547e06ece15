"""Wrong, endless or malicious files end in a typed error or one clean line, in time; nothing is sent."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import command_line
import pytest
from click.testing import CliRunner
from support import KEY

from aiomutex import InvalidRequestError
from aiomutex._util import files
from aiomutex.cli.root import root
from aiomutex.plan import load_desired, load_plan, parse_desired
from aiomutex.plan.formats import MAX_BYTES, DesiredFileError
from aiomutex.plan.saved import is_saved_plan
from aiomutex.testing import MutexEmulator
from aiomutex.traffic import read_users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MutexEmulator]:
    """An emulator in the environment, and an empty working directory."""
    with MutexEmulator(groups=3, limits=False) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", KEY)
        monkeypatch.chdir(tmp_path)
        yield emulator


def ends_cleanly(done: Result) -> None:
    """Check for an exit code, a short message, and no traceback."""
    assert done.exit_code in (1, 2), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert len(done.output) < 2_000


# ------------------------------------------------------------------ desired states

DESIRED_STATES: Final[dict[str, tuple[str, str, str]]] = {
    "a number of 5,000 digits": ("json", '{"groups":[{"key":"a","projectId":' + "9" * 5_000 + "}]}", "invalid JSON"),
    "an infinite percentage": (
        "json",
        '{"groups":[{"projectId":1,"key":"a","slots":[{"percentage":1e999}]}]}',
        "not inf",
    ),
    "a percentage that is not a number": ("json", '{"percentage":NaN}', "NaN is not a JSON number"),
    "5 million objects": ("json", "[" + "{}," * 5_000_000 + "{}]", "more than 2,000,000 values"),
    "a key of 8 MB above 200,000 values": (
        "json",
        '{"' + "a" * 2**23 + '":[' + "0," * 200_000 + "0]}",
        "unknown field",
    ),
    "a YAML number of 5,000 digits": (
        "yaml",
        "groups: [{key: a, projectId: 1, name: n, slots: [{percentage: " + "9" * 5_000 + "}]}]",
        "a number from 1",
    ),
    "50,000 directives": ("yaml", "".join(f"%TAG !a{n}! tag:x\n" for n in range(50_000)) + "--- {}", "100 YAML"),
    "billion laughs": ("yaml", "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "anchors and aliases"),
    "a command": ("yaml", "groups: !!python/object/apply:os.system [id]", "YAML tags"),
    "a million nested keys": ("yaml", "{? " * 1_000_000, "the key of a mapping must be a string"),
    "20,000 unknown fields": ("yaml", "".join(f"projectIds{n}:\n" for n in range(20_000)), "unknown field"),
    "a string of 2 million escapes": ("json", '"' + "\\\\" * (MAX_BYTES // 8) + '"', "must be a mapping"),
    "16 MB of whitespace": ("json", "[" + " " * (MAX_BYTES - 2), "Expecting value"),
    "a NUL in a key": ("json", '{"groups":[{"projectId":1,"key":"a\\u0000"}]}', "without whitespace"),
    "half of a surrogate pair": ("json", '{"groups":[{"projectId":1,"key":"\\ud800"}]}', "half of a surrogate pair"),
}


@pytest.mark.parametrize(("format_", "text", "message"), DESIRED_STATES.values(), ids=DESIRED_STATES.keys())
def test_a_desired_state_that_is_slow_or_large_fails_soon(format_: str, text: str, message: str) -> None:
    started = time.process_time()
    with pytest.raises(DesiredFileError, match=re.escape(message)) as caught:
        parse_desired(text, format_=format_)
    # Without the limits, each large one takes minutes or a gigabyte.
    assert time.process_time() - started < 5
    assert len(str(caught.value)) < 5_000
    assert str(caught.value).encode()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_directory(path: Path) -> None:
    path.mkdir()


def an_endless_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_sparse_file(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_BYTES + 1)


@pytest.mark.parametrize("make", [a_pipe, a_directory, an_endless_device, a_sparse_file])
def test_a_plan_must_be_a_regular_file_of_bounded_size(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    make(path)
    for load in (load_desired, load_plan):
        with pytest.raises(DesiredFileError, match=r"not a regular file|more than 16,777,216 bytes"):
            load(path)
    assert not is_saved_plan(path)


def test_a_symbolic_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text('{"groups": []}')
    (tmp_path / "groups.json").symlink_to("real.json")
    assert load_desired(tmp_path / "groups.json").groups == ()


# ------------------------------------------------------------------ edits and users


def test_an_endless_line_is_an_error_and_is_not_kept(
    service: MutexEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 1_000)
    good = '{"group_id": "1", "slot_index": 1, "experiments": [5]}\n'
    for name in ("edits.jsonl", "edits.csv"):
        (tmp_path / name).write_text(
            (good if name.endswith("l") else "group_id,slot_index\n") + "1" * 5_000 + "\n" + good
        )
        done = command_line.run("slots", "bulk", name)
        ends_cleanly(done)
        assert "line 2: longer than 1,000 characters" in done.output
    assert not service.requests
    done = command_line.run("slots", "bulk", "-", "--failures", "failed", stdin=good + "1" * 5_000 + "\n" + good)
    assert done.output.splitlines()[-1].startswith("1 applied, 1 failed")
    assert (tmp_path / "failed").read_text() == ""
    (tmp_path / "users").write_text("ada\n" + "x" * 5_000)
    with pytest.raises(InvalidRequestError, match="line 2 is longer than 1,000"):
        list(read_users(tmp_path / "users"))


HOSTILE_EDITS: Final[dict[str, tuple[str, bytes]]] = {
    "nested lists": ("jsonl", b"[" * 1_000_000),
    "nested objects": ("jsonl", b'{"group_id":' * 100_000),
    "a number of 5,000 digits": ("jsonl", b'{"group_id":"1","slot_index":1,"experiments":[%s]}' % (b"9" * 5_000)),
    "a number of 30 digits": ("jsonl", b'{"group_id":"1","slot_index":1,"experiments":[%s]}' % (b"9" * 30)),
    "not UTF-8": ("jsonl", b'{"group_id":"\xff","slot_index":1,"experiments":[]}'),
    "half of a surrogate pair": ("jsonl", b'{"group_id":"1","slot_index":1,"individuals":["\\ud800"]}'),
    "a NUL": ("jsonl", b'{"group_id":"1\\u0000","slot_index":1,"experiments":[]}'),
    "a path traversal": ("jsonl", b'{"group_id":"../../etc/passwd","slot_index":1,"experiments":[]}'),
    "an escaped path traversal": ("jsonl", b'{"group_id":"..%2f..%2fx","slot_index":1,"experiments":[]}'),
    "a query": ("jsonl", b'{"group_id":"1?x=","slot_index":1,"experiments":[]}'),
    "a fragment": ("jsonl", b'{"group_id":"1#","slot_index":1,"experiments":[]}'),
    "a line break": ("jsonl", b'{"group_id":"1\\r\\nHost: x","slot_index":1,"experiments":[]}'),
    "not UTF-8 in a cell": ("csv", b"group_id,slot_index,individuals\n1,1,\xff\n"),
    "NULs in cells": ("csv", b"group_id,slot_index,individuals\n\0,1,\0\n"),
    "a field of 17 MB": ("csv", b"group_id,slot_index,individuals\n1,1," + b"x" * 17 * 2**20),
    "a field of 17 MB in lines": ("csv", b'group_id,slot_index,individuals\n1,1,"' + (b"x" * 8191 + b"\n") * 2_200),
    "an unclosed quote": ("csv", b'group_id,slot_index,individuals\n1,1,"' + b"x\n" * 100_000),
    "a slot of 5,000 digits": ("csv", b"group_id,slot_index,individuals\n1," + b"9" * 5_000 + b",a\n"),
    "a path traversal in a cell": ("csv", b"group_id,slot_index,individuals\n../../x,1,a\n"),
}


@pytest.mark.parametrize(("format_", "data"), HOSTILE_EDITS.values(), ids=HOSTILE_EDITS.keys())
def test_a_hostile_file_of_edits_is_rejected_and_nothing_is_sent(
    service: MutexEmulator, tmp_path: Path, format_: str, data: bytes
) -> None:
    (tmp_path / f"edits.{format_}").write_bytes(data)
    ends_cleanly(command_line.run("slots", "bulk", f"edits.{format_}"))
    # A pipe cannot be checked in advance.
    words = ("slots", "bulk", "-", "--format", format_, "--failures", "failed")
    ends_cleanly(CliRunner().invoke(root, words, input=data))
    assert not service.requests


def test_edits_from_a_pipe_are_read_once_and_applied(service: MutexEmulator, tmp_path: Path) -> None:
    a_pipe(tmp_path / "edits.jsonl")
    words = "import pathlib; pathlib.Path('edits.jsonl').write_text('{}')"
    line = '{"group_id": "1", "slot_index": 1, "experiments": [5]}\n'
    writer = subprocess.Popen([sys.executable, "-c", words.format(line.replace("\n", "\\n"))], cwd=tmp_path)
    done = command_line.run("slots", "bulk", "edits.jsonl")
    assert writer.wait(timeout=10) == 0
    assert done.stdout.startswith("1 applied, 0 failed")
    assert service.groups["1"].slots[0].experiments == [5]


@pytest.mark.parametrize(
    "words",
    [
        ("slots", "bulk", "-", "--failures", "/nowhere/failed"),
        ("slots", "bulk", "-", "--failures", "/dev/full"),
        ("pull", "/nowhere/groups.yaml"),
        ("probe", "--out", "/nowhere/probe.json"),
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_ends_a_command_with_one_line(
    service: MutexEmulator, words: tuple[str, ...]
) -> None:
    done = command_line.run(*words, stdin="not json\n")
    ends_cleanly(done)
    assert re.search(r"aiomutex: .*(No such file|No space left)", done.stderr)


def test_names_that_look_like_paths_or_escape_sequences_are_harmless(service: MutexEmulator, tmp_path: Path) -> None:
    before = sorted(tmp_path.parent.rglob("*"))
    service.groups["1"].key = "../../escaped"
    service.groups["1"].name = "\x1b]0;owned\x07\u202e/etc/passwd"
    service.groups["1"].description = "\x1b[2J\u202e\x9b"
    assert command_line.run("pull", "groups.yaml").exit_code == 0
    assert sorted(tmp_path.parent.rglob("*")) == sorted([*before, tmp_path / "groups.yaml"])
    for words in (("list",), ("get", "1")):
        shown = command_line.run("groups", *words).output
        assert "../../escaped" in shown
        assert shown.replace("\n", "").isprintable()


# ------------------------------------------------------------------ memory, as the operating system counts it


@pytest.mark.deep
@pytest.mark.parametrize("make", ["sparse", "device"])
@pytest.mark.parametrize(
    "words",
    [
        "lint in.yaml",
        "apply in.json --yes",
        "slots bulk in.jsonl",
        "slots bulk in.csv",
        "slots bulk --undo in.jsonl",
        "slots bulk - --journal in.jsonl",
        "groups create --from in.json",
        "traffic simulate in.csv",
    ],
)
def test_a_file_of_a_gigabyte_is_not_held_in_memory(
    service: MutexEmulator, tmp_path: Path, words: str, make: str
) -> None:
    for name in ("in.yaml", "in.json", "in.jsonl", "in.csv"):
        if make == "device":
            an_endless_device(tmp_path / name)
        else:
            (tmp_path / name).touch()
            os.truncate(tmp_path / name, 2**30)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (800 * 2**20, 800 * 2**20))

    command = [sys.executable, "-m", "aiomutex", *words.split()]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        preexec_fn=limit,
    )
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert not service.commits
