"""The workflow of the README, run as scripts: in one working copy, with stand-ins for pip and gh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import aiomutex.plan

from .experiments_listing import ExperimentPages

if TYPE_CHECKING:
    from aiomutex.emulator import MutexEmulator

README = Path(aiomutex.plan.__file__).with_name("README.md").read_text()
WORKFLOW: dict[str, Any] = yaml.safe_load(README.partition("```yaml mutex-groups.yml\n")[2].partition("```")[0])

GH = """
import json, pathlib, sys
file = pathlib.Path("../comments.json")
comments = json.loads(file.read_text()) if file.exists() else []
path, method = sys.argv[2], sys.argv[sys.argv.index("--method") + 1] if "--method" in sys.argv else "GET"
assert sys.argv[1] == "api" and path.startswith("repos/o/r/issues/")
if method == "GET":
    marker = sys.argv[sys.argv.index("--jq") + 1].split('"')[1]
    print(*(number for number, body in enumerate(comments, 1) if body.startswith(marker)), sep="\\n")
else:
    body = pathlib.Path(sys.argv[sys.argv.index("--field") + 1].removeprefix("body=@")).read_text()
    if method == "POST":
        comments.append(body)
    else:
        comments[int(path.rpartition("/")[2]) - 1] = body
    file.write_text(json.dumps(comments))
"""


class Runner:
    """Runs jobs as GitHub does: each step in ``bash -e``, until one fails."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.copy = folder / "copy"
        self.copy.mkdir()
        tools = folder / "tools"
        tools.mkdir()
        (tools / "gh.py").write_text(GH)
        for name, command in (
            ("aiomutex", f'{sys.executable} -m aiomutex "$@"'),
            ("gh", f'{sys.executable} {tools}/gh.py "$@"'),
            ("pip", '[ "$*" = "install aiomutex[cli]" ]'),
        ):
            (tools / name).write_text(f"#!/bin/sh\n{command}\n")
            (tools / name).chmod(0o755)
        self.runs = 0
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(folder),
            "AIOMUTEX_BASE_URL": url,
            "AMPLITUDE_MANAGEMENT_API_KEY": "the-secret-key",
            "COMMENTS": "repos/o/r/issues/5/comments",
            "COMMENT": "repos/o/r/issues/comments",
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GITHUB_RUN_ATTEMPT": "1",
        }

    def run(self, job: str) -> tuple[int, str]:
        """The exit code of the step that fails, or 0, and the output of all steps."""
        self.runs += 1
        output = ""
        for step in WORKFLOW["jobs"][job]["steps"]:
            if script := step.get("run"):
                done = subprocess.run(
                    ["bash", "-e", "-c", script],
                    cwd=self.copy,
                    env=self.environment | {"GITHUB_RUN_ID": str(self.runs)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                output += done.stdout
                if done.returncode:
                    return done.returncode, output
        return 0, output

    @property
    def comments(self) -> list[str]:
        file = self.folder / "comments.json"
        return json.loads(file.read_text()) if file.exists() else []

    def write(self, experiments: str) -> None:
        (self.copy / "groups.yaml").write_text(
            "groups:\n- projectId: 1\n  key: checkout\n"
            f"  slots: [{{percentage: 40, experiments: {experiments}}}, {{percentage: 60}}]\n"
        )


@pytest.fixture
def runner(emulator: MutexEmulator, tmp_path: Path) -> Runner:
    slots: list[Any] = [{"percentage": 40, "experiments": [1], "individuals": ["ada@example.com"]}, {"percentage": 60}]
    emulator.add_group("7", slots=slots, name="Checkout", key="checkout", project_id="1")
    ExperimentPages(emulator, {number: {"name": f"E{number}", "state": "planning"} for number in range(1, 9)})
    return Runner(tmp_path, emulator.url)


def test_the_workflow_runs_twice_in_one_working_copy(runner: Runner, emulator: MutexEmulator) -> None:
    for first, second in ((2, 3), (4, 5)):
        # The first push to the pull request, and another one.
        for experiment in (first, second):
            runner.write(f"[1, {experiment}]")
            code, output = runner.run("plan")
            assert (code, output.splitlines()[1:]) == (0, []), output
            assert len(runner.comments) == 1
            assert f"experiments: + {experiment} 'E{experiment}' (planning)" in runner.comments[0]
            assert (runner.folder / "summary.md").read_text().endswith(runner.comments[0])
        # The merge.
        code, output = runner.run("apply")
        assert code == 0, output
        assert "\n1 applied, 0 failed, 0 unknown" in output
        assert emulator.groups["7"].slots[0].experiments == [1, second]
        assert runner.run("drift") == (0, "no changes\n")
    journals = sorted(path.name for path in runner.copy.glob("apply-*.db"))
    assert len(journals) == 2
    artifact = WORKFLOW["jobs"]["apply"]["steps"][-1]["with"]["path"]
    assert sorted(path.name for path in runner.copy.glob(artifact)) == journals


def test_a_nightly_run_fails_with_4_on_drift_and_a_merge_repairs_it(runner: Runner, emulator: MutexEmulator) -> None:
    runner.write("[1]")
    assert runner.run("drift") == (0, "no changes\n")
    emulator.groups["7"].slots[0].experiments.append(8)
    code, output = runner.run("drift")
    assert code == 4
    assert "slot 1 experiments: - 8" in output
    assert runner.run("apply")[0] == 0
    assert runner.run("drift")[0] == 0


def test_a_blocked_plan_is_shown_and_fails_the_pull_request(runner: Runner, emulator: MutexEmulator) -> None:
    ExperimentPages(emulator, {1: {"name": "E1", "state": "running"}})
    runner.write("[]")
    assert runner.run("plan")[0] == 3
    assert "! blocked by 1 running experiment: --allow-running lets it through" in runner.comments[0]
    assert runner.run("apply")[0] == 3
    assert not emulator.commits
    (runner.copy / "groups.yaml").write_text("groups: 5")
    assert runner.run("plan")[0] == 2
    assert len(runner.comments) == 1


def test_a_comment_counts_individuals(runner: Runner) -> None:
    (runner.copy / "groups.yaml").write_text("groups: [{projectId: 1, key: checkout, archived: true}]")
    assert runner.run("plan")[0] == 0
    runner.write("[], individuals: [eve@example.com]")
    assert runner.run("plan")[0] == 0
    assert "- slot 1 individuals: - (1)" in runner.comments[0]
    assert "@example.com" not in runner.comments[0] + (runner.folder / "summary.md").read_text()
