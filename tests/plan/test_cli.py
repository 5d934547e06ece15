from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from aiomutex.cli.root import root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aiomutex.emulator import MutexEmulator

pytestmark = pytest.mark.usefixtures("nothing_immutable_written", "environment")


@pytest.fixture
def environment(emulator: MutexEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
    monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "the-secret-key")
    monkeypatch.chdir(tmp_path)
    slots = [{"percentage": 40, "experiments": [1]}, {"percentage": 60, "experiments": [2], "individuals": ["ada"]}]
    emulator.add_group(
        "7", slots=slots, name="[red]Checkout", key="checkout", project_id="1", bucketing_key="device_id",
        bucketing_salt="abcd",
    )  # fmt: skip
    emulator.add_group("8", slots=[100], name="Old", key="old", project_id="2", bucketing_salt="efgh", deleted=True)


@pytest.fixture
def run() -> Callable[..., Result]:
    def invoke(*arguments: str, input_: str | None = None) -> Result:
        result = CliRunner().invoke(root, arguments, input=input_)
        assert "the-secret-key" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


def test_the_ci_recipe_of_the_readme(run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator) -> None:
    assert run("pull", "groups.yaml").exit_code == 0
    assert run("lint", "groups.yaml").exit_code == 0
    assert run("plan", "groups.yaml").exit_code == 0
    # On a branch, experiment 9 joins slot 1.
    file = tmp_path / "groups.yaml"
    file.write_text("# reviewed\n" + file.read_text().replace("    - 1\n", "    - 1\n    - 9\n"))
    pull_request = run("plan", "groups.yaml", "--out", "changes.plan")
    assert pull_request.exit_code == 4
    assert pull_request.output == (
        "~ checkout (project 1): update\n"
        "    slot 1 experiments: + 9\n"
        "0 to create, 1 to update, 0 to archive; 1 member added, 0 removed\n"
    )
    sent = len(emulator.requests)
    assert run("show", "changes.plan").output == pull_request.output
    assert json.loads(run("show", "changes.plan", "--json").output)["counts"]["updates"] == 1
    assert len(emulator.requests) == sent
    merge = run("apply", "changes.plan", "--yes", "--journal", "apply.db")
    assert merge.exit_code == 0, merge.output
    assert "\n1 applied, 0 failed, 0 unknown, 0 done earlier, 0 never tried; 4 requests\n" in merge.output
    assert emulator.groups["7"].slots[0].experiments == [1, 9]
    assert run("plan", "groups.yaml").output == "no changes\n"
    assert run("apply", "changes.plan", "--yes").exit_code == 0


def test_pull_is_stable_and_does_not_lose_comments_unless_asked(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator
) -> None:
    file = tmp_path / "groups.yaml"
    assert run("pull", "groups.yaml").output == "Wrote 1 live group to groups.yaml\n"
    file.write_text("# ours\n" + file.read_text().replace("groups:", "thresholds: {removals: 0.3}\ngroups:"))
    before = file.read_bytes()
    assert run("pull", "groups.yaml").output == "groups.yaml already describes the 1 live group\n"
    assert file.read_bytes() == before
    emulator.groups["7"].name = "Till"
    rejected = run("pull", "groups.yaml")
    assert rejected.exit_code == 3
    assert "comments, which would be lost; pass --overwrite" in rejected.output
    assert file.read_bytes() == before
    assert run("pull", "groups.yaml", "--overwrite").exit_code == 0
    assert "removals: 0.3" in file.read_text()
    assert "name: Till" in file.read_text()


@pytest.mark.parametrize(("file", "comment"), [("g.yaml", "name: a\t# ours"), ("g.yml", "# ours")])
def test_pull_does_not_change_a_file_that_is_up_to_date_and_recognizes_comments(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator, file: str, comment: str
) -> None:
    emulator.groups["7"].name = "a"
    assert run("pull", file).exit_code == 0
    text = (tmp_path / file).read_text()
    name = comment.partition("#")[0].rstrip()
    assert name in text
    (tmp_path / file).write_text(text.replace(name, comment, 1) if name else f"{comment}\n{text}")
    assert run("pull", file).output == f"{file} already describes the 1 live group\n"
    emulator.groups["7"].name = "b"
    assert "comments, which would be lost" in run("pull", file).output


def test_pull_filters_by_project_and_archived_and_writes_json(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("pull", "groups.json", "--archived", "--project", "2").exit_code == 0
    assert '"archived": true' in (tmp_path / "groups.json").read_text()
    assert "checkout" not in (tmp_path / "groups.json").read_text()
    assert run("plan", "groups.json").exit_code == 0
    assert run("pull", "groups.txt").exit_code == 2


def test_a_plan_with_an_immutable_difference_is_blocked_and_is_shown_as_json(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "g.json").write_text('{"groups": [{"projectId": 1, "key": "checkout", "bucketingSalt": "x"}]}')
    blocked = run("plan", "g.json", "--json")
    assert blocked.exit_code == 3
    assert json.loads(blocked.stdout)["errors"][0].startswith(
        "checkout (project 1): bucketingSalt cannot change from abcd"
    )
    rejected = run("apply", "g.json", "--yes", "--force")
    assert rejected.exit_code == 3
    assert "the plan is blocked; nothing was written" in rejected.output


def test_errors_are_one_line_and_wrong_usage_exits_with_2(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator
) -> None:
    (tmp_path / "bad.yaml").write_text("groups:\n- key: a")
    bad = run("plan", "bad.yaml")
    assert (bad.exit_code, bad.output) == (
        2,
        "aiomutex: bad.yaml:2: groups[0] has no projectId; required: projectId and key\n",
    )
    assert run("plan").exit_code == 2
    assert run("lint").exit_code == 2
    assert run("plan", "bad.yaml", "--nonsense").exit_code == 2
    (tmp_path / "good.yaml").write_text("groups: []")
    emulator.fail_next(1, status=401)
    rejected = run("plan", "good.yaml")
    assert rejected.exit_code == 1
    assert rejected.output.startswith("aiomutex: GET /api/1/mutexes")


def test_apply_without_a_terminal_needs_yes_and_thresholds_need_force(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator
) -> None:
    (tmp_path / "g.yaml").write_text(
        "thresholds: {removals: 0.1}\ngroups: [{projectId: 1, key: checkout, slots: [{percentage: 40}, "
        "{percentage: 60, experiments: []}]}]"
    )
    assert run("plan", "g.yaml").exit_code == 3
    assert "! blocked by 1 exceeded threshold: --force lets it through" in run("apply", "g.yaml", "--yes").output
    unconfirmed = run("apply", "g.yaml", "--force")
    assert unconfirmed.exit_code == 2
    assert "no terminal to ask for confirmation; pass --yes" in unconfirmed.output
    assert not emulator.commits
    assert run("apply", "g.yaml", "--force", "--yes").exit_code == 0
    assert emulator.groups["7"].slots[1].experiments == []


def test_a_stale_plan_and_a_failed_step_exit_with_1(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator
) -> None:
    (tmp_path / "g.yaml").write_text("groups: [{projectId: 1, key: checkout, name: Till}]")
    assert run("plan", "g.yaml", "--out", "c.plan").exit_code == 4
    emulator.fail_next(1, status=400, method="PATCH")
    assert "name: '[red]Checkout' → 'Till'" in run("plan", "c.plan").output
    failed = run("apply", "c.plan", "--yes")
    assert failed.exit_code == 1
    assert "edit checkout (project 1): failed: " in failed.output
    assert "0 applied, 1 failed, 0 unknown" in failed.output
    emulator.groups["7"].description = "theirs"
    stale = run("apply", "c.plan", "--yes")
    assert stale.exit_code == 1
    assert "1 group changed since the plan was made" in stale.output


def test_the_same_apply_resumes_and_its_journal_undoes_both_runs(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator
) -> None:
    file = tmp_path / "g.yaml"
    slots = "[{percentage: 40, experiments: [5]}, {percentage: 60, experiments: [6]}]"
    file.write_text(f"groups: [{{projectId: 1, key: checkout, slots: {slots}}}]")
    command = ("apply", "g.yaml", "--yes", "--journal", "apply.db")
    emulator.fail_next(1, status=400, method="PATCH", path="*/slots/2")
    interrupted = run(*command)
    assert (interrupted.exit_code, emulator.groups["7"].slots[0].experiments) == (1, [5])
    assert "\n1 applied, 0 failed" in run(*command).output
    assert run(*command).output == "no changes\n"
    file.write_text(file.read_text().replace("[5]", "[8]"))
    another = run(*command)
    assert another.exit_code == 2
    assert "journal apply.db belongs to a completed apply; use a new file" in another.output
    assert run("slots", "bulk", "--undo", "apply.db").exit_code == 0
    assert [slot.experiments for slot in emulator.groups["7"].slots] == [[1], [2]]


def test_running_experiments_block_unless_allowed(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator
) -> None:
    from aiohttp import web  # noqa: PLC0415  # as the emulator's pages want it

    async def page(_: web.BaseRequest) -> web.Response:
        return web.json_response({"state": "running", "evaluationMode": "local"})

    emulator.pages["/api/1/experiments/1"] = page
    (tmp_path / "g.yaml").write_text(
        "groups: [{projectId: 1, key: checkout, slots: [{percentage: 40, experiments: []}, {percentage: 60}]}]"
    )
    blocked = run("plan", "g.yaml", "--check-running")
    assert blocked.exit_code == 3
    assert "! experiment 1 is running; affected by checkout (project 1)" in blocked.output
    assert "! blocked by 1 running experiment: --allow-running lets it through" in blocked.output
    allowed = run("plan", "g.yaml", "--check-running", "--allow-running")
    assert (allowed.exit_code, "blocked" in allowed.output) == (4, False)
    assert run("apply", "g.yaml", "--yes", "--check-running").exit_code == 3
    assert not emulator.commits
    assert run("apply", "g.yaml", "--yes", "--check-running", "--allow-running").exit_code == 0


def test_lint_reports_file_and_line(run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator) -> None:
    (tmp_path / "g.yaml").write_text("groups:\n- {projectId: 1, key: a, slots: [{percentage: 100, experiments: []}]}")
    warned = run("lint", "g.yaml")
    assert warned.exit_code == 0
    assert warned.output.startswith("g.yaml:2: AM105 warning: a: slot 1 has no members. A slot without")
    assert warned.output.endswith("g.yaml: 1 group, 0 errors, 1 warning\n")
    assert run("lint", "g.yaml", "--strict").exit_code == 1
    assert json.loads(run("lint", "g.yaml", "--json").stdout)[0]["code"] == "AM105"
    (tmp_path / "fine.yaml").write_text("groups: []")
    assert run("lint", "fine.yaml").output == "fine.yaml: 0 groups, 0 errors, 0 warnings\n"
    assert not emulator.requests


def test_lint_can_read_the_modes_of_experiments(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator
) -> None:
    from aiohttp import web  # noqa: PLC0415  # as the emulator's pages want it

    async def page(_: web.BaseRequest) -> web.Response:
        return web.json_response({"evaluationMode": "local"})

    emulator.pages["/api/1/experiments/5"] = page
    (tmp_path / "g.yaml").write_text(
        "groups: [{projectId: 1, key: a, slots: [{percentage: 100, experiments: [5, 6]}]}]"
    )
    found = run("lint", "g.yaml", "--check-modes")
    assert found.exit_code == 1
    assert "AM108 error: a: experiment 5 has local evaluation, but the group has remote" in found.output


def test_traffic_shows_shares_slots_counts_and_moves(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("traffic", "show").output == (
        "experiment 1: 40.00% of all users (checkout 40.0%)\nexperiment 2: 60.00% of all users (checkout 60.0%)\n"
    )
    assert run("traffic", "show", "1", "--held-out", "5").output.startswith("experiment 1: 38.00% of all users")
    for percentage in ("200", "nan", "inf"):
        rejected = run("traffic", "show", "1", "--held-out", percentage)
        assert rejected.exit_code == 2
        assert rejected.output.startswith("aiomutex: held_out must be ")
    assert json.loads(run("traffic", "show", "9", "--json").stdout) == [{"experiment": 9, "share": 1, "groups": {}}]
    assert run("traffic", "where", "ada").output == "checkout (by device_id): slot 2, experiment 2\n"
    assert json.loads(run("traffic", "where", "x", "--json", "--id", "ada").stdout)[0]["slot"] == 2
    (tmp_path / "users.txt").write_text("\n".join(f"user-{n}" for n in range(1000)))
    counted = run("traffic", "simulate", "users.txt")
    assert counted.output.startswith("checkout: slot 1: 4")
    assert "no slot: 0 users (0.0%)" in counted.output
    (tmp_path / "g.yaml").write_text(
        "groups: [{projectId: 1, key: checkout, slots: [{percentage: 40, experiments: [1, 9]}, {percentage: 60}]}]"
    )
    moved = run("traffic", "simulate", "users.txt", "--plan", "g.yaml")
    assert "% of 1,000 users would move\n    experiment 9: 1,000 → 4" in moved.output
    assert run("plan", "g.yaml", "--out", "c.plan").exit_code == 4
    assert run("traffic", "simulate", "users.txt", "--plan", "c.plan").output == moved.output
    as_json = run("traffic", "simulate", "users.txt", "--json")
    assert json.loads(as_json.stdout)["users"] == 1000


def test_names_with_control_characters_or_markup_are_shown_as_text(
    run: Callable[..., Result], tmp_path: Path, emulator: MutexEmulator
) -> None:
    emulator.groups["7"].name = "a\x1b[31m"
    (tmp_path / "g.yaml").write_text('groups: [{projectId: 1, key: checkout, name: "[b]x"}]')
    shown = run("plan", "g.yaml").output
    assert "\x1b" not in shown
    assert "→ '[b]x'" in shown


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, aiomutex.cli.root; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"yaml", "mmh3", "rich", "aiomutex.plan", "aiomutex.traffic"} & set(done.stdout.split())


def test_users_can_be_read_from_a_pipe(tmp_path: Path) -> None:
    code = "from aiomutex.cli.traffic import traffic; traffic()"
    done = subprocess.run(
        [sys.executable, "-c", code, "simulate", "-"], input="ada\neve\n", capture_output=True, text=True, check=True
    )
    assert "experiment 2: " in done.stdout
    assert "Traceback" not in done.stderr


def test_an_unknown_group_is_an_error(run: Callable[..., Result]) -> None:
    for words in (["where", "ada"], ["simulate", "-"]):
        done = run("traffic", *words, "--group", "nope", "--group", "checkout", input_="ada")
        assert (done.exit_code, done.output) == (1, "aiomutex: there is no group with the key nope\n")


def test_more_users_are_sampled_unless_all_are_wanted(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("\n".join(f"user-{n}" for n in range(20_500)))
    sampled = run("traffic", "simulate", "users.txt")
    assert sampled.output.startswith("A random sample of 20,000 of 20,500 users, with 95 % confidence")
    assert re.search(r"slot 1: [34]\d\.\d% ± 0\.1%", sampled.output)
    as_json = json.loads(run("traffic", "simulate", "users.txt", "--json").output)
    assert (as_json["users"], as_json["population"], round(as_json["margin"], 4)) == (20_000, 20_500, 0.0011)
    (tmp_path / "g.yaml").write_text(
        "groups: [{projectId: 1, key: checkout, slots: [{percentage: 40, experiments: [9]}, {percentage: 60}]}]"
    )
    moved = run("traffic", "simulate", "users.txt", "--plan", "g.yaml")
    assert re.search(r"% ± 0\.\d% of 20,000 users would move", moved.output)
    everybody = run("traffic", "simulate", "users.txt", "--all")
    assert "sample" not in everybody.output
    assert "±" not in everybody.output
    assert json.loads(run("traffic", "simulate", "users.txt", "--all", "--json").output)["users"] == 20_500


def test_traffic_finds_a_group_by_every_spelling_of_its_key(
    run: Callable[..., Result], emulator: MutexEmulator
) -> None:
    emulator.groups["7"].key = "caf\u00e9"
    done = run("traffic", "where", "ada", "--group", "cafe\u0301")
    assert done.output.startswith("caf\u00e9 (by device_id): ")
