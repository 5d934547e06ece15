"""Groups that replace others: the layout of their slots, the plan, and its apply through the command line."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import command_line
import pytest
from msgspec.structs import replace

from aiomutex import MutexGroup, Slot
from aiomutex.emulator import MutexEmulator
from aiomutex.plan import DesiredSlot, successor
from aiomutex.plan.successor import lay_out, passages
from aiomutex.traffic import Bucketing

from .experiments_listing import ExperimentPages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

EXPERIMENTS: list[list[int]] = [[], [1], [2], [3], [1, 2], [4]]


def old_slots(*slots: tuple[float, list[int]]) -> list[Slot]:
    return [Slot(index=index, percentage=size, experiments=held) for index, (size, held) in enumerate(slots, 1)]


def new_slots(*slots: tuple[int, list[int]]) -> list[DesiredSlot]:
    return [DesiredSlot(percentage=size, experiments=tuple(held)) for size, held in slots]


def moved(old: Sequence[Slot], new: Sequence[DesiredSlot]) -> float:
    return sum(float(each["percentage"]) for each in passages(old, new) if each["moves"])


def laid(slots: Sequence[DesiredSlot]) -> list[tuple[float, list[int]]]:
    return [(slot.percentage, list(slot.experiments or ())) for slot in slots]


def random_split(rng: random.Random, count: int, parts: int) -> list[int]:
    cuts = sorted(rng.sample(range(1, parts), count - 1))
    return [(end - start) * 100 // parts for start, end in itertools.pairwise([0, *cuts, parts])]


def random_case(rng: random.Random, parts: int) -> tuple[list[Slot], list[DesiredSlot]]:
    sides = [
        [(size, rng.choice(EXPERIMENTS)) for size in random_split(rng, rng.randint(1, min(parts, 4)), parts)]
        for _ in range(2)
    ]
    # Some live groups leave a rest of the users without a slot.
    return old_slots(*sides[0][: len(sides[0]) - (rng.random() < 0.2)] or sides[0]), new_slots(*sides[1])


def fewest_by_trying_all(old: list[Slot], new: list[DesiredSlot], parts: int, limit: int) -> float:
    """The share that moves in the best of all layouts whose slots are multiples of a part."""
    held = [frozenset(slot.experiments) for slot in old for _ in range(round(slot.percentage) * parts // 100)]
    cells = [*held, *[frozenset[int]()] * (parts - len(held))]
    wanted = [frozenset(slot.experiments or ()) for slot in new]

    @cache
    def fewest(left: tuple[int, ...], last: int, slots: int) -> float:
        place = parts - sum(left)
        if place == parts:
            return 0
        best = float("inf")
        for each, size in enumerate(left):
            if size and (each == last or slots < limit):
                rest = (*left[:each], size - 1, *left[each + 1 :])
                best = min(best, (wanted[each] != cells[place]) + fewest(rest, each, slots + (each != last)))
        return best

    return fewest(tuple(slot.percentage * parts // 100 for slot in new), -1, 0) * 100 / parts


def test_no_layout_moves_fewer_users_in_10_000_random_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(17)
    for number in range(10_000):
        parts = rng.choice([4, 5, 10])
        old, new = random_case(rng, parts)
        limit = len(new) + rng.choice([0, 1, 2, 9])
        monkeypatch.setattr(successor, "MAX_SLOTS", limit)
        slots = lay_out(old, new)
        assert len(slots) <= limit
        assert moved(old, slots) == pytest.approx(fewest_by_trying_all(old, new, parts, limit)), (number, old, new)
        for position, slot in enumerate(new):
            same = [each.percentage for each in new[:position] + new[position:] if each.experiments == slot.experiments]
            assert sum(each.percentage for each in slots if each.experiments == slot.experiments) == sum(same)


def test_no_order_moves_fewer_users_without_splitting() -> None:
    rng = random.Random(18)
    for _ in range(1_000):
        old, new = random_case(rng, 100)
        slots = lay_out(old, new, split=False)
        assert sorted(map(repr, slots)) == sorted(map(repr, new))
        assert moved(old, slots) == min(moved(old, order) for order in itertools.permutations(new))


def test_growth_takes_freed_places_as_a_further_slot() -> None:
    old = old_slots((30, [1]), (40, [2]), (30, [3]))
    new = new_slots((40, [1]), (40, [2]), (20, [3]))
    split = lay_out(old, new)
    assert laid(split) == [(30, [1]), (40, [2]), (20, [3]), (10, [1])]
    assert moved(old, split) == 10
    whole = lay_out(old, new, split=False)
    assert laid(whole) == [(40, [1]), (40, [2]), (20, [3])]
    assert moved(old, whole) == 20


def test_a_slot_whose_members_change_keeps_the_places_of_the_most_similar_one() -> None:
    old = old_slots((30, [1]), (40, [2]), (30, [3]))
    slots = lay_out(old, new_slots((30, [3, 4]), (30, [1, 5]), (40, [2])))
    assert laid(slots) == [(30, [1, 5]), (40, [2]), (30, [3, 4])]
    slots = lay_out(old_slots((50, [1]), (50, [1, 2])), new_slots((50, [1, 2, 3]), (50, [1, 4])))
    assert laid(slots) == [(50, [1, 4]), (50, [1, 2, 3])]


def test_fractions_of_live_slots_count() -> None:
    old = old_slots((33.3, [1]), (33.3, [2]), (33.4, [3]))
    slots = lay_out(old, new_slots((33, [1]), (33, [2]), (34, [3])))
    assert laid(slots) == [(33, [1]), (33, [2]), (34, [3])]
    assert moved(old, slots) == pytest.approx(0.9)


@pytest.mark.parametrize("sizes", [(0, 100), (40, 50), (50.5, 49.5), (60, 60)])
def test_slots_that_cannot_be_laid_out_stay_as_they_are(sizes: tuple[float, float]) -> None:
    new = [DesiredSlot(percentage=size, experiments=(number,)) for number, size in enumerate(sizes)]
    assert lay_out(old_slots((40, [1]), (60, [0])), new) == new


def test_live_slots_of_more_than_100_percent_share_100_percent_of_the_users() -> None:
    live = old_slots((60, [1]), (60, [2]))
    assert [(each["before"], each["percentage"]) for each in passages(live, new_slots((100, [1])))] == [
        (1, 60),
        (2, 40),
    ]
    assert sum(each["percentage"] for each in passages(live, live)) == 100


def test_individuals_are_in_the_first_part_of_their_slot() -> None:
    first, second = new_slots((60, [1]), (40, [2]))
    new = [replace(first, individuals=("ada",)), second]
    slots = lay_out(old_slots((40, [1]), (50, [2]), (10, [3])), new)
    assert [(slot.percentage, [*(slot.individuals or ())]) for slot in slots] == [(50, ["ada"]), (40, []), (10, [])]


def test_a_layout_of_20_slots_is_found_in_time() -> None:
    rng = random.Random(5)
    old = old_slots(*((size, [number]) for number, size in enumerate(random_split(rng, 20, 100))))
    new = new_slots(*((size, [number]) for number, size in enumerate(random_split(rng, 20, 100))))
    rng.shuffle(new)
    for split in (True, False):
        started = time.process_time()
        slots = lay_out(old, new, split=split)
        assert time.process_time() - started < 15
        assert sorted(map(repr, slots)) == sorted(map(repr, new))


# ------------------------------------------------------------------ through the command line

FILE = """
groups:
- projectId: 1
  key: checkout-2
  replaces: checkout
  slots:
  - {percentage: 40, experiments: [1]}
  - {percentage: 40, experiments: [2], individuals: [ada]}
  - {percentage: 20, experiments: [3]}
"""
SUCCESSOR = [(30, [1]), (40, [2]), (20, [3]), (10, [1])]


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MutexEmulator]:
    with MutexEmulator(limits=False) as running:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", running.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "a-key-of-some-length")
        monkeypatch.chdir(tmp_path)
        slots: list[dict[str, Any]] = [
            {"percentage": size, "experiments": [number]} for number, size in enumerate((30, 40, 30), 1)
        ]
        slots[1]["individuals"] = ["ada"]
        fields: dict[str, Any] = {"evaluation_mode": "local", "bucketing_key": "device_id", "bucketing_salt": "abcd"}
        running.add_group("7", slots=slots, name="Checkout", key="checkout", project_id="1", **fields)
        ExperimentPages(running, {number: {"state": "planning"} for number in range(9)})
        (tmp_path / "g.yaml").write_text(FILE)
        yield running


def run(*words: str) -> tuple[int, str]:
    result = command_line.run(*words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def keys(emulator: MutexEmulator) -> dict[str, bool]:
    return {group.key: group.deleted for group in emulator.groups.values()}


def test_a_plan_shows_who_moves_by_slot_and_for_a_sample_of_users(emulator: MutexEmulator, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("".join(f"user-{number}\n" for number in range(1000)))
    code, output = run("plan", "g.yaml", "--out", "c.plan")
    assert code == 4
    assert output.startswith(
        "+ checkout-2 (project 1): create\n"
        "    slot 1: 30 %, experiments 1\n"
        "    slot 2: 40 %, experiments 2, individuals ada\n"
        "    slot 3: 20 %, experiments 3\n"
        "    slot 4: 10 %, experiments 1\n"
        "- checkout (project 1): archive (0 members leave their slots permanently)\n"
        "    replaced by checkout-2: 10 % of the users move\n"
        "    slot 1 → slot 1: 30 % stay\n"
        "    slot 2 → slot 2: 40 % stay\n"
        "    slot 3 → slot 3: 20 % stay\n"
        "    slot 3 → slot 4: 10 % move\n"
    )
    beyond = Bucketing(MutexGroup(id="7", bucketing_salt="abcd", slots=old_slots((30, [1]), (40, [2]), (20, [3]))))
    moving = sum(beyond.slot(f"user-{number}") is None for number in range(1000))
    assert output.endswith("\n1 to create, 0 to update, 1 to archive; 5 members added, 0 removed\n")
    assert "20 % of the users move" in run("plan", "g.yaml", "--no-split")[1]
    found = json.loads(run("plan", "g.yaml", "--json")[1])["successors"][0]
    assert (found["group"], found["successor"], found["moved"]) == ("checkout (project 1)", "checkout-2", 10)
    assert found["slots"][-1] == {"before": 3, "after": 4, "percentage": 10, "moves": True}
    assert (
        f"{moving / 10:.1f}% of 1,000 users would move"
        in run("traffic", "simulate", "users.txt", "--plan", "c.plan")[1]
    )


def test_apply_creates_the_successor_reads_it_and_then_archives_the_old_group(emulator: MutexEmulator) -> None:
    assert run("apply", "g.yaml", "--yes")[0] == 0
    new = next(group for group in emulator.groups.values() if group.key == "checkout-2")
    assert [(slot.percentage, slot.experiments) for slot in new.slots] == SUCCESSOR
    assert [slot.individuals for slot in new.slots] == [[], ["ada"], [], []]
    fields = (new.name, new.evaluation_mode, new.bucketing_key, new.bucketing_salt)
    assert fields == ("Checkout", "local", "device_id", "abcd")
    sent = [f"{request.method} {request.path.rpartition('/')[2]}" for request in [*emulator.requests][-4:]]
    assert sent == ["POST mutexes", "GET 7", f"GET {new.id}", "PATCH 7"]
    assert run("plan", "g.yaml") == (0, "no changes\n")
    assert run("plan", "g.yaml", "--no-split") == (0, "no changes\n")
    assert run("apply", "g.yaml", "--yes")[0] == 0
    assert len(keys(emulator)) == 2


@pytest.mark.parametrize("saved", [False, True])
def test_an_apply_that_is_killed_after_the_create_is_completed_by_the_same_command(
    emulator: MutexEmulator, saved: bool
) -> None:
    file = "c.plan" if saved else "g.yaml"
    run("plan", "g.yaml", "--out", "c.plan")
    emulator.fail_next(kind="stall", method="PATCH")
    command = [sys.executable, "-m", "aiomutex", "apply", file, "--yes"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ) as process:
        while emulator.requests[-1].method != "PATCH":
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert keys(emulator) == {"checkout": False, "checkout-2": False}
    code, output = run("plan", file)
    assert code == 4
    assert "- checkout (project 1): archive (0 members leave their slots permanently)\n" in output
    assert output.endswith("\n0 to create, 0 to update, 1 to archive; 0 members added, 0 removed\n")
    found = run("lint", "--live")[1]
    assert found.startswith("AM119 warning: checkout-2: the bucketing salt and key are those of checkout. ")
    assert "AM106" not in found
    assert run("apply", file, "--yes")[0] == 0
    assert keys(emulator) == {"checkout": True, "checkout-2": False}
    assert run("plan", file)[0] == 0


@pytest.mark.parametrize("fault", [{"status": 400}, {"kind": "garbage", "body": "<html>"}, {"kind": "reset-after"}])
def test_without_its_successor_the_old_group_is_not_archived(emulator: MutexEmulator, fault: dict[str, Any]) -> None:
    emulator.fail_next(method="POST", **fault)
    code, output = run("apply", "g.yaml", "--yes")
    is_created = "checkout-2" in keys(emulator)
    assert keys(emulator)["checkout"] == (code == 0)
    if not is_created:
        assert code == 1
        assert "\n0 applied, 1 failed, 0 unknown, 0 done earlier, 1 never tried; 2 requests\n" in output
    assert run("apply", "g.yaml", "--yes")[0] == 0
    assert keys(emulator) == {"checkout": True, "checkout-2": False}


def test_a_successor_that_is_not_as_planned_keeps_the_old_group(emulator: MutexEmulator, tmp_path: Path) -> None:
    run("plan", "g.yaml", "--out", "c.plan")
    path = tmp_path / "c.plan"
    text = path.read_text()
    assert text.count('"bucketingSalt": "abcd"') == 3
    path.write_text(text.replace('"bucketingSalt": "abcd"', '"bucketingSalt": "other"', 1))
    code, output = run("apply", "c.plan", "--yes")
    assert code == 1
    assert "checkout-2 (project 1) differs" in output
    assert not keys(emulator)["checkout"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"deleted": True}, "replaces checkout, which does not exist or is archived"),
        ({"key": "other"}, "replaces checkout, which does not exist or is archived"),
        ({"bucketing_salt": ""}, "cannot replace checkout: both must have one bucketingKey and bucketingSalt"),
    ],
)
def test_a_group_that_cannot_be_replaced_blocks_the_plan(
    emulator: MutexEmulator, change: dict[str, Any], problem: str
) -> None:
    for name, value in change.items():
        setattr(emulator.groups["7"], name, value)
    code, output = run("plan", "g.yaml", "--allow-running")
    assert code == 3
    assert f"! checkout-2 (project 1): blocked\n    ! {problem}\n" in output


def test_cohorts_block_a_successor(emulator: MutexEmulator, tmp_path: Path) -> None:
    emulator.groups["7"].slots[0].cohorts = ["c1"]
    problem = "cannot replace checkout: its cohorts cannot be written"
    assert problem in run("plan", "g.yaml")[1]
    emulator.groups["7"].slots[0].cohorts = []
    (tmp_path / "g.yaml").write_text(FILE.replace("experiments: [3]", "experiments: [3], cohorts: [c1]"))
    assert problem in run("plan", "g.yaml")[1]
    assert run("apply", "g.yaml", "--yes", "--force", "--allow-running")[0] == 3
    assert keys(emulator) == {"checkout": False}


@pytest.mark.parametrize(
    ("others", "code"),
    [
        ("- {projectId: 1, key: checkout, name: Till}", 3),
        ("- {projectId: 1, key: checkout-3, replaces: checkout, slots: [{percentage: 100}]}", 3),
        ("- {projectId: 1, key: checkout, archived: true}", 4),
    ],
)
def test_the_file_may_only_say_that_the_old_group_is_archived(
    emulator: MutexEmulator, tmp_path: Path, others: str, code: int
) -> None:
    (tmp_path / "g.yaml").write_text(FILE + others)
    assert run("plan", "g.yaml")[0] == code
    assert run("apply", "g.yaml", "--yes")[0] == code % 4
    assert keys(emulator).get("checkout") == (code == 4)
    if code == 4:
        assert run("plan", "g.yaml") == (0, "no changes\n")


def test_a_running_experiment_blocks_a_successor_unless_it_is_allowed(emulator: MutexEmulator) -> None:
    ExperimentPages(emulator, {2: {"state": "running"}, **{number: {"state": "planning"} for number in (1, 3)}})
    code, output = run("apply", "g.yaml", "--yes")
    assert code == 3
    assert "! experiment 2 is running; affected by checkout-2 (project 1), checkout (project 1)\n" in output
    assert "! blocked by 1 running experiment: --allow-running lets it through\n" in output
    assert keys(emulator) == {"checkout": False}
    assert run("apply", "g.yaml", "--yes", "--allow-running")[0] == 0
    assert keys(emulator) == {"checkout": True, "checkout-2": False}


@pytest.mark.parametrize(
    "change", [("experiments: [1]", "experiments: [1, 7]"), ("40, experiments: [2]", "30"), ("ada", "eve")]
)
def test_the_slots_of_a_successor_change_only_after_a_pull(
    emulator: MutexEmulator, tmp_path: Path, change: tuple[str, str]
) -> None:
    file = tmp_path / "g.yaml"
    run("apply", "g.yaml", "--yes")
    file.write_text(FILE.replace(*change))
    code, output = run("plan", "g.yaml")
    assert code == 3
    assert "    ! its slots differ from the file; to change them, take them over with a pull\n" in output
    assert run("pull", "g.yaml")[0] == 0
    assert "replaces" not in file.read_text()
    assert run("plan", "g.yaml") == (0, "no changes\n")
    file.write_text(file.read_text().replace("    - 1\n", "    - 1\n    - 7\n"))
    code, output = run("apply", "g.yaml", "--yes")
    assert code == 0
    assert "    slot 1 experiments: + 7\n    slot 4 experiments: + 7\n" in output


def test_a_successor_in_another_order_has_no_changes(emulator: MutexEmulator, tmp_path: Path) -> None:
    text = FILE.replace("40, experiments: [1]", "40, experiments: [3]").replace(
        "20, experiments: [3]", "20, experiments: [1]"
    )
    (tmp_path / "g.yaml").write_text(text)
    code, output = run("apply", "g.yaml", "--yes", "--no-split")
    assert code == 0
    assert "    slot 1: 20 %, experiments 1\n" in output
    assert run("plan", "g.yaml") == (0, "no changes\n")


def test_while_both_exist_an_experiment_runs_where_its_old_and_new_places_are(
    emulator: MutexEmulator, tmp_path: Path
) -> None:
    emulator.fail_next(status=400, method="PATCH")
    run("apply", "g.yaml", "--yes")
    assert keys(emulator) == {"checkout": False, "checkout-2": False}
    shown = run("traffic", "show")[1]
    assert shown == (
        "experiment 1: 30.00% of all users (checkout 30.0% ∩ checkout-2 40.0%)\n"
        "experiment 2: 40.00% of all users (checkout 40.0% ∩ checkout-2 40.0%)\n"
        "experiment 3: 20.00% of all users (checkout 30.0% ∩ checkout-2 20.0%)\n"
    )
    (tmp_path / "users.txt").write_text("".join(f"user-{number}\n" for number in range(10_000)))
    counts = json.loads(run("traffic", "simulate", "users.txt", "--json")[1])["experiments"]
    assert [round(counts[experiment] / 10_000, 1) for experiment in "123"] == [0.3, 0.4, 0.2]


def test_a_successor_in_the_middle_of_1_000_groups(
    emulator: MutexEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MutexEmulator(groups=1000, slots_per_group=3, limits=False) as many:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", many.url)
        numbers = (100 * group + slot for group in range(1, 1001) for slot in (1, 2, 3))
        ExperimentPages(many, {number: {"state": "planning"} for number in numbers})
        assert run("pull", "all.json")[0] == 0
        described = json.loads((tmp_path / "all.json").read_text())
        for group in described["groups"][::10]:
            group |= {"key": f"{group['key']}-b", "replaces": group["key"]}
            group["slots"][0]["percentage"] += 10
            group["slots"][2]["percentage"] -= 10
        (tmp_path / "all.json").write_text(json.dumps(described))
        started = time.process_time()
        code, output = run("apply", "all.json", "--yes")
        assert code == 0, output[-2000:]
        assert time.process_time() - started < 30
        assert output.count(": 10 % of the users move\n") == 100
        assert sum(group.deleted for group in many.groups.values()) == 100
        assert run("plan", "all.json") == (0, "no changes\n")
