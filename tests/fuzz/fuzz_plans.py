# The targets are private functions, and their input has no known type.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false
"""Fuzz targets: groups as code, files of user IDs, and the command line."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

import click
from click.testing import CliRunner
from fuzz_promises import Target, folder, keep, only, text_of
from support import CREATE

from aiomutex import ConfigurationError, InvalidRequestError, MutexError, MutexGroup, Slot
from aiomutex.cli.groups import _slot as slot_option
from aiomutex.cli.root import root
from aiomutex.cli.slots import _numbers, _texts
from aiomutex.plan import Desired, after, dump_desired, lint, load_plan, parse_desired, plan, render, save_plan
from aiomutex.plan.dump import same_content
from aiomutex.plan.formats import DesiredFileError
from aiomutex.plan.render import plan_json
from aiomutex.plan.saved import is_saved_plan, remaining
from aiomutex.traffic import read_users, simulate, slot_of

LIVE: Final = MutexGroup(
    id="7", project_id="1", name="n", key="a", evaluation_mode="remote", bucketing_key="amplitude_id",
    bucketing_salt="s", slots=[Slot(index=1, percentage=40, experiments=[1, 2]), Slot(index=2, percentage=60)],
)  # fmt: skip


def _desired(data: bytes, format_: str) -> None:
    """A valid desired state can be checked, written and read again, planned, rendered and saved."""
    valid: list[Desired] = []
    with only(DesiredFileError):
        valid.append(parse_desired(data, format_=format_))
    for desired in valid:
        _use_desired(desired)


def _use_desired(desired: Desired) -> None:
    lint(desired)
    for other in ("yaml", "json"):
        read = parse_desired(dump_desired(desired, other), format_=other)
        keep(same_content(read, desired), f"the desired state changed when written as {other}")
    changes = plan(desired, [LIVE])
    render(changes).encode()
    _use(changes)
    save_plan(changes, folder() / "made.plan")
    keep(load_plan(folder() / "made.plan") == changes, "the plan changed when saved")


def _use(changes: Any) -> None:
    json.dumps(plan_json(changes))
    with only(MutexError):
        remaining(changes, [LIVE])
    with only(ConfigurationError):
        simulate(after(changes, [LIVE]), ["ada", "", "x"])


def desired_yaml(data: bytes) -> None:
    """A file in YAML is a valid desired state, or a ``DesiredFileError`` is raised."""
    _desired(data, "yaml")


def desired_json(data: bytes) -> None:
    """A file in JSON is a valid desired state, or a ``DesiredFileError`` is raised."""
    _desired(data, "json")


def saved_plan(data: bytes) -> None:
    """A saved plan can be rendered and resumed, or a ``DesiredFileError`` is raised."""
    path = folder() / "saved.plan"
    path.write_bytes(data)
    is_saved_plan(path)
    with only(DesiredFileError):
        changes = load_plan(path)
        render(changes).encode()
        _use(changes)


# ---------------------------------------------------------------------------------------------- the command line


def users(data: bytes) -> None:
    """User IDs are counted, whatever they are, or the file is rejected as invalid UTF-8."""
    path = folder() / "users"
    path.write_bytes(data)
    with only(InvalidRequestError):
        ids = list(read_users(path))
        keep(all(user == user.strip() and user for user in ids), "an ID with whitespace around it")
        keep(simulate([LIVE], ids).users == len(ids), "users were lost")


def bucketing(data: bytes) -> None:
    """A user lands in the same slot alone and in a simulation, or the ID is rejected."""
    text = text_of(data)
    with only(InvalidRequestError):
        slot = slot_of(LIVE, text, ids=[text[:1]])
        keep(simulate([LIVE], [text]).groups[0].slots == {1: slot is LIVE.slots[0], 2: slot is LIVE.slots[1]}, "moved")


def options(data: bytes) -> None:
    """The value of an option is read, or rejected as wrong usage."""
    text = text_of(data)
    with contextlib.suppress(click.UsageError):
        slot_option(text)
    _texts(text)
    with contextlib.suppress(click.UsageError):
        _numbers(text)


def group_file(data: bytes) -> None:
    """A file that is not a group is rejected with one message; a valid one fails because no API key is set."""
    _command(["groups", "create", "--from", "-"], data, codes=(2,))


def command_line(data: bytes) -> None:
    """A command ends with an exit code and without a traceback, whatever its arguments are."""
    text = text_of(data).replace("\0", "")
    lines = text.split("\n")
    _command([*lines[0].split()[:2], *lines[1:6]], b"", codes=(0, 1, 2, 3, 4, 130))


_SERVERS: Final = frozenset({"demo", "emulator"})


def _command(arguments: list[str], given: bytes, *, codes: tuple[int, ...]) -> None:
    if _SERVERS & set(arguments):
        return  # these commands run until they are interrupted
    result = CliRunner(env={"AMPLITUDE_MANAGEMENT_API_KEY": ""}).invoke(root, arguments, input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    keep(result.exit_code in codes, f"exit code {result.exit_code}")


_YAML: Final = b"""version: 1
thresholds: {removals: 0.3}
lint: {ignore: [AM101]}
groups:
  - projectId: 1
    key: a
    name: "n \\u00e9"
    description: null
    evaluationMode: remote
    slots:
      - percentage: 40
        experiments: [1, 3]
      - percentage: 60
        individuals: [ada, "007"]
"""
_TREE: Final = json.dumps(
    {"version": 1, "lint": {"ignore": ["AM101"]}, "groups": [
        {"projectId": 1, "key": "a", "name": "m", "archived": False, "slots": [
            {"percentage": 40, "experiments": [1, 3]}, {"percentage": 60, "holdouts": [], "cohorts": ["c"]}]},
        {"projectId": "p", "key": "b", "name": "x", "slots": [{"percentage": 100, "individuals": ["ada"]}]},
    ]}
).encode()  # fmt: skip
_SAVED: Final = json.dumps(
    {"aiomutexPlan": 1, "plan": {"file": "f", "exceededThresholds": ["e"], "groups": [
        {"projectId": "1", "key": "a", "action": "update", "groupId": "7", "fingerprint": "f", "members": 1,
         "fields": [{"field": "name", "before": "n", "after": None}], "experiments": [1],
         "lists": [{"slotIndex": 1, "field": "experiments", "before": [1, 2], "after": [1, 3]},
                   {"slotIndex": 2, "field": "individuals", "before": [], "after": ["x"]}]},
        {"projectId": "1", "key": "b", "action": "create", "new": json.loads(CREATE), "fingerprint": "absent"},
        {"projectId": "1", "key": "c", "action": "archive", "groupId": "9", "errors": ["e"], "notes": ["n"]}]}}
).encode()  # fmt: skip
_KEYS: Final = ("projectId", "key", "slots", "percentage", "experiments", "individuals", "archived", "evaluationMode")

PLANS: Final[dict[str, Target]] = {
    "desired_yaml": Target(desired_yaml, (_YAML,), (*_KEYS, "&a", "*a", "!!", "<<: ", "---\n", "\\u", "? ", "|")),
    "desired_json": Target(desired_json, (_TREE,), _KEYS),
    "saved_plan": Target(saved_plan, (_SAVED,), (*_KEYS, "new", "lists", "fields", "groupId"), share=0.5),
    "users": Target(users, (b"ada\r\n\n eve \n", b"\xff\n"), share=0.5, longest=256),
    "bucketing": Target(bucketing, (b"ada", b"", b"\xff"), longest=128),
    "options": Target(options, (b"40:123,456", b"1,2, 3", b"", b"1_0,+5"), longest=256),
    "group_file": Target(group_file, (CREATE, b"[]"), _KEYS, share=0.1),
    "command_line": Target(
        command_line,
        (
            b"slots edit\n7\n1\n--experiments\n1,2", b"groups create\n--project\n1\n--name\nn\n--slot\n40:1",
            b"traffic show\n123\n--held-out\n5", b"groups list\n--page-size\n5", b"traffic where\nada\n--id\nx",
        ),
        ("--json", "--help", "groups ", "slots ", "lint", "plan", "--yes", "archive"), share=0.1, longest=128,
    ),
}  # fmt: skip
