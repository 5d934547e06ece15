"""``aiomutex traffic``: who lands in which slot, and how much traffic experiments get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aiomutex.cli.common import echo, json_option, print_json
from aiomutex.cli.desired import ExitOneCommand, live_groups, load, run_with_session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex import MutexGroup, MutexSession

__all__ = ["traffic"]

_USERS = click.argument("users", type=click.Path(exists=True, dir_okay=False, allow_dash=True))


@click.group()
def traffic() -> None:
    """Who lands in which slot, and how much traffic experiments get."""


@traffic.command(cls=ExitOneCommand)
@click.argument("experiments", type=int, nargs=-1)
@click.option("--held-out", type=float, multiple=True, help="Percentage that a holdout of the experiments holds out.")
@json_option
def show(experiments: tuple[int, ...], held_out: tuple[float, ...], as_json: bool) -> None:
    """Show the share of all users that EXPERIMENTS get; all experiments in groups if none is given.

    \b
    Example:
      aiomutex traffic show 123 456 --held-out 5
    """  # noqa: D301  # click's own escape
    from aiomutex.traffic import slot_share, traffic_share

    async def work(session: MutexSession) -> list[dict[str, Any]]:
        groups = [group for group in await live_groups(session) if not group.deleted]
        homes: dict[int, list[MutexGroup]] = {}
        for group in groups:
            for experiment in {each for slot in group.slots for each in slot.experiments}:
                homes.setdefault(experiment, []).append(group)
        return [
            {
                "experiment": experiment,
                "share": traffic_share(experiment, groups, held_out=held_out),
                "groups": {group.key or group.id: slot_share(group, experiment) for group in homes.get(experiment, ())},
            }
            for experiment in experiments or sorted(homes)
        ]

    rows = run_with_session(work)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        parts = " × ".join(f"{key} {share:.1%}" for key, share in row["groups"].items())  # noqa: RUF001  # a times sign
        echo(f"experiment {row['experiment']}: {row['share']:.2%} of all users ({parts or 'in no group'})")


@traffic.command(cls=ExitOneCommand)
@click.argument("user")
@click.option("--id", "ids", multiple=True, help="Another id of the same user that a slot may list.")
@click.option("--group", "keys", multiple=True, help="Only this group, by key; may be given several times.")
@json_option
def where(user: str, ids: tuple[str, ...], keys: tuple[str, ...], as_json: bool) -> None:
    """Show the slots in which USER lands; give the value that the groups' bucketing key holds.

    \b
    Example:
      aiomutex traffic where 5c1f-device --id ada@example.com
    """  # noqa: D301  # click's own escape
    from aiomutex.traffic import slot_of

    async def work(session: MutexSession) -> list[dict[str, Any]]:
        groups = _salted(group for group in await live_groups(session) if not keys or group.key in keys)
        slots = [(group, slot_of(group, user, ids=ids)) for group in groups]
        return [
            {"group": group.key or group.id, "bucketingKey": group.bucketing_key}
            | {"slot": slot.index if slot else None, "experiments": slot.experiments if slot else []}
            for group, slot in slots
        ]

    rows = run_with_session(work)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        slot = f"slot {row['slot']}" if row["slot"] else "in no slot"
        experiments = ", ".join(map(str, row["experiments"])) or "none"
        echo(f"{row['group']} (by {row['bucketingKey']}): {slot}, experiments {experiments}")


@traffic.command(cls=ExitOneCommand)
@_USERS
@click.option("--plan", "file", type=click.Path(exists=True, dir_okay=False), help="Count who moves under this file.")
@click.option("--group", "keys", multiple=True, help="Only this group, by key; may be given several times.")
@json_option
def simulate(users: str, file: str | None, keys: tuple[str, ...], as_json: bool) -> None:
    """Send the ids in the file USERS, one a line, through the groups; - reads standard input.

    With --plan, a desired state or a saved plan, it counts who moves: users for whom an experiment appears or goes.

    \b
    Examples:
      aiomutex traffic simulate users.txt
      aiomutex traffic simulate users.txt --plan groups.yaml
    """  # noqa: D301  # click's own escape
    from aiomutex.traffic import compare, read_users
    from aiomutex.traffic import simulate as count

    ids = read_users(0 if users == "-" else users)

    async def work(session: MutexSession) -> Any:
        live = await live_groups(session)
        chosen = _salted(group for group in live if not keys or group.key in keys)
        if file is None:
            return count(chosen, ids)
        then = _salted(group for group in _after(file, live) if not keys or group.key in keys)
        return compare(chosen, then, ids)

    found = run_with_session(work)
    if as_json:
        print_json(found)
        return
    if file is not None:
        from aiomutex.plan.render import move_lines

        echo("\n".join(move_lines(found)))
        return
    for group in found.groups:
        slots = ", ".join(f"slot {index}: {_share(amount, found.users)}" for index, amount in group.slots.items())
        echo(f"{group.key or group.group_id}: {slots}, in none: {_share(group.unallocated, found.users)}")
    for experiment, amount in found.experiments.items():
        echo(f"experiment {experiment}: {_share(amount, found.users)}")
    for overlap in found.overlaps[:50]:
        echo(f"experiments {overlap.first} and {overlap.second} share {_share(overlap.users, found.users)}")
    if len(found.overlaps) > 50:  # noqa: PLR2004  # what one looks through
        echo(f"and {len(found.overlaps) - 50:,} pairs more; --json has them all")


def _after(file: str, live: list[MutexGroup]) -> list[MutexGroup]:
    from aiomutex.plan import after, load_plan, remaining
    from aiomutex.plan import plan as make_plan
    from aiomutex.plan.saved import is_saved_plan

    made = remaining(load_plan(file), live) if is_saved_plan(file) else make_plan(load(file), live)
    return after(made, live)


def _salted(groups: Iterable[MutexGroup]) -> list[MutexGroup]:
    """Groups that users can land in; the others are told on standard error."""
    chosen: list[MutexGroup] = []
    for group in groups:
        if group.deleted:
            continue
        if group.bucketing_salt:
            chosen.append(group)
        else:
            echo(f"aiomutex: group {group.key or group.id} has no bucketingSalt and is left out", err=True)
    return chosen


def _share(amount: int, whole: int) -> str:
    return f"{amount:,} ({amount / whole:.1%})" if whole else f"{amount:,}"
