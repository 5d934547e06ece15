"""The emulator keeps the contract, says a tool that reads only the contract and sends whatever it can think of.

Under the strictest reading what the contract forbids is refused and what it allows accepted. A lenient reading accepts
more than the contract promises, and its answers look as different as can be; they keep the contract all the same.
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
STRANGE = Dialect(
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
READINGS = {
    "strict": (STRICT, ()),
    "strange": (STRANGE, ("negative_data_rejection",)),
    "bare": (BARE, ("negative_data_rejection",)),
}


@pytest.mark.deep
@pytest.mark.parametrize("reading", READINGS)
def test_schemathesis_finds_no_violation(reading: str, schemathesis: list[str], tmp_path: Path) -> None:
    dialect, left_out = READINGS[reading]
    with MutexEmulator(groups=10, limits=False, key=KEY, dialect=dialect) as emulator:
        done = subprocess.run(
            [
                *schemathesis,
                "--no-color",
                "run",
                f"{emulator.url}/openapi.json",
                f"--url={emulator.url}",
                f"--header=Authorization: Bearer {KEY}",
                "--max-examples=30",
                "--seed=1",
                *(f"--exclude-checks={check}" for check in left_out),
            ],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(Path(__file__).parent)},
            check=False,
            capture_output=True,
            text=True,
        )
        made = {method for method in ("GET", "POST", "PATCH") if any(it.method == method for it in emulator.requests)}
        committed = {commit.method for commit in emulator.commits}
    print(f"\n{reading}: {done.stdout[done.stdout.find('SUMMARY') :]}")
    assert done.returncode == 0, done.stdout + done.stderr
    tried = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert tried is not None
    assert tried[1] == tried[2]
    assert int(tried[1]) > 300
    # It got through: creates and edits were made, not only refused.
    assert (made, committed) == ({"GET", "POST", "PATCH"}, {"POST", "PATCH"})


@pytest.mark.deep
def test_schemathesis_finds_a_violation_where_there_is_one(schemathesis: list[str], tmp_path: Path) -> None:
    with MutexEmulator(groups=10, limits=False, key=KEY, faults=["garbage:100%"]) as emulator:
        done = subprocess.run(
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
    assert done.returncode == 1
