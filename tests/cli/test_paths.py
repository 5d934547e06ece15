"""No command writes over its input, nor over another of its files. What a command writes is for its owner only."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from commands import commands, file_parameters, words_of

from aiomutex._util.files import open_private
from aiomutex.cli.common import FilePath

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import click
    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator


def the_same_name(file: Path) -> str:
    return file.name


def a_relative_name(file: Path) -> str:
    return f"../{file.parent.name}/{file.name}"


def a_symbolic_link(file: Path) -> str:
    (file.parent / "link").symlink_to(file)
    return "link"


def a_hard_link(file: Path) -> str:
    (file.parent / "link").hardlink_to(file)
    return "link"


def a_link_to_its_folder(file: Path) -> str:
    (file.parent / "folder").symlink_to(file.parent)
    return f"folder/{file.name}"


PAIRS: list[Any] = [
    pytest.param(words, command, pair, id=" ".join((*words, *(each.opts[0] for each in pair))))
    for words, command in commands()
    for pair in itertools.permutations(file_parameters(command), 2)
]


def test_there_are_commands_with_several_files_and_each_file_is_checked() -> None:
    assert len(PAIRS) >= 12
    for _, command in commands():
        assert all(isinstance(parameter.type, FilePath) for parameter in file_parameters(command))
        named = {parameter.name for parameter in file_parameters(command)}
        assert not {"file", "out", "report", "state_file", "failures", "journal"} & (
            {parameter.name for parameter in command.params} - named
        )


@pytest.mark.parametrize(
    "other_name", [the_same_name, a_relative_name, a_symbolic_link, a_hard_link, a_link_to_its_folder]
)
@pytest.mark.parametrize(("words", "command", "pair"), PAIRS)
def test_no_command_takes_one_file_twice(
    words: tuple[str, ...],
    command: click.Command,
    pair: tuple[click.Parameter, click.Parameter],
    other_name: Callable[[Path], str],
    service: MutexEmulator,
    aiomutex: Aiomutex,
    tmp_path: Path,
) -> None:
    file = tmp_path / "groups.yaml"
    file.write_text("groups: []")
    done = aiomutex(*words, *words_of(command, {pair[0].name: file.name, pair[1].name: other_name(file)}))
    assert done.exit_code in (1, 2)
    assert "groups.yaml" in done.stderr
    assert "choose another name" in done.stderr
    assert file.read_text() == "groups: []"
    assert not service.requests


@pytest.mark.parametrize(
    ("words", "command", "pair"), [each for each in PAIRS if not any(file.type.exists for file in each.values[2])]
)
def test_two_new_files_must_differ_too(
    words: tuple[str, ...],
    command: click.Command,
    pair: tuple[click.Parameter, click.Parameter],
    aiomutex: Aiomutex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str | None, str] = {pair[0].name: "new", pair[1].name: "./new"}
    others: dict[str | None, str] = {
        each.name: "in.jsonl" for each in command.params if isinstance(each.type, FilePath) and each.required
    }
    (tmp_path / "in.jsonl").write_text("")
    done = aiomutex(*words, *words_of(command, others | given))
    assert "choose another name" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_the_files_next_to_a_journal_are_its_own(
    suffix: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    (tmp_path / "e.jsonl").write_text("")
    files = ["--journal", "run.db", "--failures", f"run.db{suffix}"]
    for options in (files, files[2:] + files[:2]):
        done = aiomutex("slots", "bulk", "e.jsonl", *options)
        assert done.exit_code == 2
        assert "choose another name" in done.stderr
    assert not (tmp_path / f"run.db{suffix}").exists()


def test_the_file_on_standard_input_is_an_input_too(service: MutexEmulator, tmp_path: Path) -> None:
    file = tmp_path / "failed.jsonl"
    file.write_text("{}\n")
    command = [sys.executable, "-m", "aiomutex", "slots", "bulk", "-", "--failures", "failed.jsonl"]
    with file.open() as opened:
        done = subprocess.run(command, check=False, stdin=opened, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "choose another name" in done.stderr
    assert file.read_text() == "{}\n"


WRITES = [
    ("slots", "bulk", "e.jsonl", "--failures"),
    ("plan", "g.yaml", "--out"),
    ("pull",),
    ("probe", "--out"),
]


@pytest.mark.parametrize("words", WRITES, ids=" ".join)
def test_a_file_that_a_command_makes_is_for_its_owner_only_and_is_not_written_through_a_link(
    words: tuple[str, ...], service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    (tmp_path / "e.jsonl").write_text('{"group_id":"99","slot_index":1,"experiments":[6]}\n')
    (tmp_path / "g.yaml").write_text("groups: [{projectId: 1, key: group-1, name: New}]")
    old = os.umask(0)
    try:
        aiomutex(*words, "new.json")
    finally:
        os.umask(old)
    made = tmp_path / "new.json"
    assert made.stat().st_size
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    precious = tmp_path / "precious.json"
    precious.write_text("{}" if words == ("pull",) else "precious")
    kept = precious.read_bytes()
    (tmp_path / "link.json").symlink_to(precious)
    done = aiomutex(*words, "link.json")
    assert done.exit_code == 1
    assert done.stderr.endswith("link.json: is a symbolic link; pass the name of the file itself\n")
    assert precious.read_bytes() == kept


def test_an_existing_file_keeps_its_mode_and_a_link_to_a_device_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "shared"
    file.write_text("old")
    file.chmod(0o640)
    with open_private(file) as opened:
        opened.write("new")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o640)
    (tmp_path / "link").symlink_to(os.devnull)
    with open_private(tmp_path / "link", "a") as opened:
        opened.write("nowhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "victim")
    with pytest.raises(FileNotFoundError):
        open_private(tmp_path / "dangling")
    assert not (tmp_path / "victim").exists()
