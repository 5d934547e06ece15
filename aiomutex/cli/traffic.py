"""``aiomutex traffic``: which slot users land in, and how much traffic experiments get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from unicodedata import normalize

import click

from aiomutex._util.wording import counted
from aiomutex.cli.common import ExitOneCommand, FilePath, call, echo, json_option, print_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from aiomutex import MutexGroup

__all__ = ["traffic"]

_MAX_OVERLAPS: Final = 50


@click.group()
def traffic() -> None:
    """Show where users land and how much traffic experiments get."""


@traffic.command(cls=ExitOneCommand)
@click.argument("experiments", type=int, nargs=-1)
@click.option("--held-out", type=float, multiple=True, help="Percentage that a holdout excludes; repeatable.")
@json_option
def show(experiments: tuple[int, ...], held_out: tuple[float, ...], as_json: bool) -> None:
    """Show the percentage of all users that EXPERIMENTS get. The default is each experiment in a group.

    \b
    Example:
      aiomutex traffic show 123 456 --held-out 5
    """  # noqa: D301  # \b keeps click from wrapping the next lines
    from aiomutex.traffic import slot_share, traffic_share

    groups = [group for group in call(lambda session: session.list_groups().collect()) if not group.deleted]
    groups_of: dict[int, list[MutexGroup]] = {}
    for group in groups:
        for experiment in {each for slot in group.slots for each in slot.experiments}:
            groups_of.setdefault(experiment, []).append(group)
    rows: list[dict[str, Any]] = [
        {
            "experiment": experiment,
            "share": traffic_share(experiment, groups, held_out=held_out),
            "groups": {each.key or each.id: slot_share(each, experiment) for each in groups_of.get(experiment, ())},
        }
        for experiment in experiments or sorted(groups_of)
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        parts = " × ".join(f"{key} {share:.1%}" for key, share in row["groups"].items())  # noqa: RUF001  # a times sign
        echo(f"experiment {row['experiment']}: {row['share']:.2%} of all users ({parts or 'in no group'})")


@traffic.command(cls=ExitOneCommand)
@click.argument("user")
@click.option("--id", "ids", multiple=True, help="Another ID of the user, which a slot may list; repeatable.")
@click.option("--group", "keys", multiple=True, help="Only the group with this key; repeatable.")
@json_option
def where(user: str, ids: tuple[str, ...], keys: tuple[str, ...], as_json: bool) -> None:
    """Show the slots that USER lands in. USER is the user's value of the bucketing key.

    \b
    Example:
      aiomutex traffic where 5c1f-device --id ada@example.com
    """  # noqa: D301  # \b keeps click from wrapping the next lines
    from aiomutex.traffic import slot_of

    groups = _salted(call(lambda session: session.list_groups().collect()), keys)
    rows: list[dict[str, Any]] = [
        {"group": group.key or group.id, "bucketingKey": group.bucketing_key}
        | {"slot": slot.index if slot else None, "experiments": slot.experiments if slot else []}
        for group in groups
        for slot in [slot_of(group, user, ids=ids)]
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        slot = f"slot {row['slot']}" if row["slot"] else "no slot"
        experiments = ", ".join(f"experiment {experiment}" for experiment in row["experiments"]) or "no experiment"
        echo(f"{row['group']} (by {row['bucketingKey']}): {slot}, {experiments}")


@traffic.command(cls=ExitOneCommand)
@click.argument("users", type=FilePath(exists=True, allow_dash=True))
@click.option("--plan", "file", type=FilePath(exists=True), help="Desired state or saved plan.")
@click.option("--group", "keys", multiple=True, help="Only the group with this key; repeatable.")
@json_option
def simulate(users: str, file: str | None, keys: tuple[str, ...], as_json: bool) -> None:
    """Count the users in each slot and experiment. USERS is a file with one ID per line; use - for standard input.

    With --plan, count the users who would move, which means that they gain or lose an experiment.

    \b
    Examples:
      aiomutex traffic simulate users.txt
      aiomutex traffic simulate users.txt --plan groups.yaml
    """  # noqa: D301  # \b keeps click from wrapping the next lines
    from aiomutex.traffic import compare, read_users
    from aiomutex.traffic import simulate as count

    ids = read_users(0 if users == "-" else users)
    live = call(lambda session: session.list_groups().collect())
    chosen = _salted(live, keys)
    result: Any = count(chosen, ids) if file is None else compare(chosen, _salted(_after(file, live), keys), ids)
    if as_json:
        print_json(result)
        return
    if file is not None:
        echo(f"{result.share:.1%} of {result.users:,} users would move")
        for move in result.experiments:
            change = f"(+{move.gained:,} −{move.lost:,})"  # noqa: RUF001  # a minus sign
            echo(f"    experiment {move.experiment}: {move.before:,} → {move.after:,} users {change}")
        return
    for group in result.groups:
        slots = ", ".join(f"slot {index}: {_share(amount, result.users)}" for index, amount in group.slots.items())
        echo(f"{group.key or group.group_id}: {slots}; no slot: {_share(group.unallocated, result.users)}")
    for experiment, amount in result.experiments.items():
        echo(f"experiment {experiment}: {_share(amount, result.users)}")
    for overlap in result.overlaps[:_MAX_OVERLAPS]:
        echo(f"experiments {overlap.first} and {overlap.second}: {_share(overlap.users, result.users)} in both")
    if (more := len(result.overlaps) - _MAX_OVERLAPS) > 0:
        echo(f"… and {counted(more, 'more pair')}; --json lists all")


def _after(file: str, live: list[MutexGroup]) -> list[MutexGroup]:
    from aiomutex.plan import after, load_desired, load_plan, remaining
    from aiomutex.plan import plan as make_plan
    from aiomutex.plan.saved import is_saved_plan

    changes = remaining(load_plan(file), live) if is_saved_plan(file) else make_plan(load_desired(file), live)
    return after(changes, live)


def _salted(groups: Iterable[MutexGroup], keys: Collection[str]) -> list[MutexGroup]:
    """Return the groups with one of the keys, if any, that users can land in; report those without a salt."""
    salted: list[MutexGroup] = []
    chosen = {normalize("NFC", key) for key in keys}
    for group in groups:
        if group.deleted or (keys and normalize("NFC", group.key) not in chosen):
            continue
        if group.bucketing_salt:
            salted.append(group)
        else:
            echo(f"aiomutex: skipped group {group.key or group.id}, which has no bucketing salt", err=True)
    return salted


def _share(users: int, total: int) -> str:
    return counted(users, "user") + (f" ({users / total:.1%})" if total else "")
