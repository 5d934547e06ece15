"""``apply --json`` lists the steps: what each was to change, its status and its error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator

PLAN: dict[str, Any] = {
    "groups": [
        {"projectId": 1, "key": "group-1", "name": "Till", "slots": [{"percentage": 34, "experiments": [5]}, {}, {}]},
        {"projectId": 1, "key": "group-2", "slots": [{}, {"percentage": 33, "experiments": [202, 6]}, {}]},
        {"projectId": 1, "key": "group-3", "archived": True},
        {"projectId": 1, "key": "new", "name": "New", "slots": [{"percentage": 100, "experiments": [7]}]},
    ]
}


def apply(aiomutex: Aiomutex, tmp_path: Path) -> tuple[int, dict[str, Any], dict[tuple[str, int | None], Any]]:
    """Apply the plan. Return the exit code, the summary, and each step by its kind and slot."""
    for group in PLAN["groups"][:2]:
        for slot, share in zip(group["slots"], (34, 33, 33), strict=True):
            slot["percentage"] = share
    (tmp_path / "g.json").write_text(json.dumps(PLAN))
    done = aiomutex("apply", "g.json", "--yes", "--json", "--journal", "apply.db")
    summary = json.loads(done.stdout)
    steps = summary.pop("steps")
    return done.exit_code, summary, {(step["kind"], step["slot_index"]): step for step in steps}


def test_the_steps_of_an_apply_say_what_was_done(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    service.fail_next(1, status=400, method="PATCH", path="*/2/slots/2")
    code, summary, steps = apply(aiomutex, tmp_path)
    assert code == 1
    assert summary["counts"] == {"applied": 4, "failed": 1}
    assert sorted(steps, key=str) == [("archive", None), ("create", None), ("edit", None), ("slot", 1), ("slot", 2)]
    assert steps["edit", None] == {
        "kind": "edit", "group": "group-1 (project 1)", "slot_index": None, "status": "applied", "error": None,
        "note": "", "changes": [{"field": "name", "before": "Group 1", "after": "Till"}],
    }  # fmt: skip
    assert steps["slot", 1]["changes"] == [{"slotIndex": 1, "field": "experiments", "before": [101], "after": [5]}]
    assert steps["create", None]["changes"]["key"] == "new"
    assert steps["archive", None]["changes"] is None
    failed = steps["slot", 2]
    assert (failed["group"], failed["status"]) == ("group-2 (project 1)", "failed")
    assert failed["error"]["error"] == "BadRequestError"
    assert failed["error"]["status"] == 400
    assert failed["changes"][0]["after"] == [6, 202]

    code, summary, steps = apply(aiomutex, tmp_path)
    assert (code, summary["counts"], [*steps]) == (0, {"applied": 1}, [("slot", 2)])
    code, summary, steps = apply(aiomutex, tmp_path)
    assert (code, summary["counts"], steps) == (0, {}, {})


def test_steps_that_were_not_sent_are_listed_too(service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path) -> None:
    service.fail_next(1, status=401, method="POST")
    code, summary, steps = apply(aiomutex, tmp_path)
    assert code == 1
    assert summary["counts"] == {"failed": 1, "never_tried": 4}
    skipped = steps["slot", 1]
    assert skipped["status"] == "never_tried"
    assert skipped["note"].startswith("not sent: POST /api/1/mutexes answered 401")
