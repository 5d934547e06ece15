from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import command_line
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiomutex import MutexGroup, Slot
from aiomutex.plan import dump_constants

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex.emulator import MutexEmulator


def module_of(groups: list[MutexGroup]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(dump_constants(groups), names)
    return {name: value for name, value in names.items() if isinstance(value, type)}


def test_a_group_becomes_a_class_of_constants(group: MutexGroup) -> None:
    assert dump_constants([group, replace(group, key=""), replace(group, key="old", deleted=True)]) == (
        '"""Mutex groups. Written by ``aiomutex pull --python``; do not edit."""\n'
        "# fmt: off\n"
        "\n"
        "import typing\n"
        "\n"
        "\n"
        "class Checkout:\n"
        "    KEY: typing.Final = 'checkout'\n"
        "    ID: typing.Final = '7'\n"
        "    PROJECT_ID: typing.Final = '1'\n"
        "    SLOT_1: typing.Final = 'slot-1'\n"
        "    SLOT_1_EXPERIMENTS: typing.Final[tuple[int, ...]] = (123,)\n"
        "    SLOT_2: typing.Final = 'slot-2'\n"
        "    SLOT_2_EXPERIMENTS: typing.Final[tuple[int, ...]] = (456, 789)\n"
    )


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["checkout-button_2"], ["CheckoutButton2"]),
        (["none", "3-d", "-", "final", "caf\u00e9"], ["Group", "Group3D", "Caf\u00e9", "Final", "GroupNone"]),
        (["a-b", "a_b", "ab"], ["AB_0", "AB_1", "Ab"]),
    ],
)
def test_every_key_has_a_class_of_its_own(keys: list[str], names: list[str], group: MutexGroup) -> None:
    groups = [replace(group, id=str(number), key=key) for number, key in enumerate(keys)]
    assert sorted(module_of(groups)) == sorted(names)


@given(keys=st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=5), variant=st.text(max_size=8))
def test_whatever_the_keys_are_the_module_holds_them(keys: list[str], variant: str) -> None:
    slot = Slot(index=1, percentage=100, variant_key=variant, experiments=[2, 1])
    groups = [MutexGroup(id=str(number), key=key, slots=[slot]) for number, key in enumerate(keys)]
    found = module_of(groups).values()
    assert {(each.KEY, each.SLOT_1, each.SLOT_1_EXPERIMENTS) for each in found} == {
        (key, variant or "slot-1", (1, 2)) for key in keys
    }
    assert dump_constants(groups[::-1]) == dump_constants(groups)


def test_a_module_is_written_once_and_checked(
    emulator: MutexEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
    monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "a-key-of-some-length")
    monkeypatch.chdir(tmp_path)
    for number in range(1, 3001):
        emulator.add_group(slots=[40, 60], key=f"group-{number}", project_id=str(1 + number % 2))
    words = ("pull", "--python", "constants.py")
    missing = command_line.run(*words, "--check")
    assert (missing.exit_code, (tmp_path / "constants.py").exists()) == (4, False)
    assert command_line.run(*words).output == "Wrote 3,000 live groups to constants.py\n"
    same = command_line.run(*words, "--check")
    assert (same.exit_code, same.output) == (0, "constants.py already describes the 3,000 live groups\n")
    assert command_line.run(*words).output == same.output
    emulator.groups["7"].slots[0].experiments.append(5)
    emulator.groups["8"].name = "of no interest here"
    changed = command_line.run(*words, "--check")
    assert (changed.exit_code, changed.output) == (
        4,
        "aiomutex: constants.py does not describe the 3,000 live groups\n",
    )
    assert command_line.run(*words, "--project", "2").output == "Wrote 1,500 live groups to constants.py\n"
    assert command_line.run("pull").exit_code == 2
    assert command_line.run("pull", "g.yaml", "--python", "h.py").exit_code == 2
    own = "# latin-1: ä\n".encode("latin-1")
    (tmp_path / "own.py").write_bytes(own)
    kept = command_line.run("pull", "--python", "own.py")
    assert (kept.exit_code, (tmp_path / "own.py").read_bytes()) == (3, own)
    assert command_line.run("pull", "--python", "own.py", "--overwrite").exit_code == 0
    assert command_line.run("pull", "g.json").exit_code == 0
    assert command_line.run("pull", "g.json", "--check").exit_code == 0


@pytest.mark.deep
def test_a_type_checker_finds_slots_that_do_not_exist(group: MutexGroup, tmp_path: Path) -> None:
    (tmp_path / "constants.py").write_text(dump_constants([group]))
    (tmp_path / "use.py").write_text("from constants import Checkout\nslot: str = Checkout.SLOT_2\nCheckout.SLOT_3\n")
    command = [sys.executable, "-m", "mypy", "--strict", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0].startswith('use.py:3: error: "type[Checkout]" has no attribute "SLOT_3"')
    assert done.stdout.splitlines()[1] == "Found 1 error in 1 file (checked 1 source file)"
