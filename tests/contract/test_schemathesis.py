"""Schemathesis generates requests from the contract and finds no violation of it in the emulator's responses.

The strict dialect rejects what the contract forbids and accepts what it allows. The other dialects accept more, and
their responses differ from the default as much as possible, but are valid, too.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from aiomutex.emulator import Dialect, MutexEmulator

KEY = "contract-key-1"
STRICT = Dialect(unknown_fields="rejected", empty_edit="rejected", over_limit="rejected")
UNUSUAL = Dialect(
    ids="string",
    created_id="number",
    project_ids="string",
    last_cursor="empty",
    cursors="string",
    end_of_list="probed",
    archived="listed",
    cohorts="absent",
    patch_body="empty",
    slot_patch="merge",
    create_lists="loose",
    create_name="optional",
    taken_key=409,
    error_body="html",
    request_ids="present",
)
BARE = Dialect(last_cursor="absent", archived="hidden", offsets="all", patch_body="json", error_body="empty")
DIALECTS = {
    "strict": (STRICT, ()),
    "unusual": (UNUSUAL, ("negative_data_rejection",)),
    "bare": (BARE, ("negative_data_rejection",)),
}


@pytest.mark.deep
@pytest.mark.parametrize("name", DIALECTS)
def test_schemathesis_finds_no_violation(name: str, schemathesis: list[str], tmp_path: Path) -> None:
    dialect, excluded_checks = DIALECTS[name]
    with MutexEmulator(groups=10, limits=False, key=KEY, dialect=dialect) as emulator:
        result = subprocess.run(
            [
                *schemathesis,
                "--no-color",
                "run",
                f"{emulator.url}/openapi.json",
                f"--url={emulator.url}",
                f"--header=Authorization: Bearer {KEY}",
                "--max-examples=30",
                "--seed=1",
                *(f"--exclude-checks={check}" for check in excluded_checks),
            ],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(Path(__file__).parent)},
            check=False,
            capture_output=True,
            text=True,
        )
        methods = {
            method for method in ("GET", "POST", "PATCH") if any(it.method == method for it in emulator.requests)
        }
        committed = {commit.method for commit in emulator.commits}
    print(f"\n{name}: {result.stdout[result.stdout.find('SUMMARY') :]}")
    assert result.returncode == 0, result.stdout + result.stderr
    generated = re.search(r"(\d+) generated, (\d+) passed", result.stdout)
    assert generated is not None
    assert generated[1] == generated[2]
    assert int(generated[1]) > 300
    # Some creates and edits were accepted.
    assert (methods, committed) == ({"GET", "POST", "PATCH"}, {"POST", "PATCH"})


@pytest.mark.deep
def test_schemathesis_finds_a_violation_if_there_is_one(schemathesis: list[str], tmp_path: Path) -> None:
    with MutexEmulator(groups=10, limits=False, key=KEY, faults=["garbage:100%"]) as emulator:
        result = subprocess.run(
            [
                *schemathesis,
                "run",
                f"{emulator.url}/openapi.json",
                f"--url={emulator.url}",
                f"--header=Authorization: Bearer {KEY}",
                "--phases=examples",
            ],
            cwd=tmp_path,
            check=False,
            capture_output=True,
        )
    assert result.returncode == 1
