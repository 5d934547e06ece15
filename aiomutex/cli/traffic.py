"""``aiomutex traffic``: which slot users land in, and how much traffic experiments get."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final
from unicodedata import normalize

import click

import aiomutex
from aiomutex._util.wording import counted
from aiomutex.cli.common import Column, FilePath, call, echo, exit_if_json, fail, json_option, live_groups, print_table
from aiomutex.cli.plan import look

_SAMPLE: Final = 20_000
_ids_option = click.option("--id", "ids", multiple=True, help="Another ID that a slot may list; repeatable.")
_keys_option = click.option("--group", "keys", multiple=True, help="Only the group with this key; repeatable.")


@click.group()
def traffic() -> None:
    """Show where users land and how much traffic experiments get."""


@traffic.command()
@click.argument("experiments", type=int, nargs=-1)
@click.option("--held-out", type=float, multiple=True, help="Percentage that a holdout excludes; repeatable.")
@json_option
def show(experiments: tuple[int, ...], held_out: tuple[float, ...]) -> None:
    """Show the percentage of all users that EXPERIMENTS get. The default is each experiment in a group."""
    groups_of: dict[int, list[aiomutex.MutexGroup]] = {}
    for group in _chosen(live_groups()):
        for experiment in {each for slot in group.slots for each in slot.experiments}:
            groups_of.setdefault(experiment, []).append(group)
    rows: list[dict[str, Any]] = []
    for experiment in experiments or sorted(groups_of):
        members = groups_of.get(experiment, [])
        share = aiomutex.traffic.traffic_share(experiment, members, held_out=held_out)
        shares = {_name(each): aiomutex.traffic.slot_share(each, experiment) for each in members}
        rows.append({"experiment": experiment, "share": share, "groups": shares})
    exit_if_json(rows)
    for row in rows:
        splits: dict[object, list[str]] = {}
        for each in groups_of.get(row["experiment"], ()):
            part = f"{_name(each)} {aiomutex.traffic.slot_share(each, row['experiment']):.1%}"
            splits.setdefault(aiomutex.traffic.split_of(each) or each.id, []).append(part)
        parts = " × ".join(map(" ∩ ".join, splits.values()))  # noqa: RUF001  # a times sign
        echo(f"experiment {row['experiment']}: {row['share']:.2%} of all users ({parts or 'in no group'})")


@traffic.command()
@_keys_option
@click.option("--states", is_flag=True, help="Read the states of experiments, which costs reads.")
@json_option
def capacity(keys: tuple[str, ...], states: bool) -> None:
    """Rank groups by the largest share that a new experiment can have without touching a running one."""
    from aiomutex.plan.experiments import describe, experiments_in, is_finished, read_experiments, state_of

    groups = _chosen(live_groups(), keys)
    wanted = experiments_in(groups) if states else ()
    found = call(lambda session: read_experiments(session, wanted)) if wanted else dict[int, Any]()
    stopped = {experiment for experiment, each in found.items() if state_of(each)[0] == "stopped"}
    finished = {experiment for experiment, each in found.items() if is_finished(describe(each))}
    kinds: dict[str, Callable[[set[int]], bool]] = {"largest": stopped.issuperset, "empty": lambda held: not held}
    if states:
        kinds["finished"] = lambda held: bool(held) and held <= finished
    rows: list[dict[str, Any]] = []
    for group in groups:
        row: dict[str, Any] = {"group": _name(group)}
        for kind, belongs in kinds.items():
            slots = [slot for slot in group.slots if belongs(set(slot.experiments))]
            row[kind] = round(sum(slot.percentage for slot in slots), 6)
            row[f"{kind}Slots"] = [slot.index for slot in slots]
        rows.append(row | {"unallocated": max(0, round(100 - sum(slot.percentage for slot in group.slots), 6))})
    rows.sort(key=lambda row: (-row["largest"], row["group"]))
    exit_if_json(rows)
    names = (*kinds, "unallocated")
    columns = (Column("GROUP", least=8), *(Column(name.upper(), right=True) for name in names))
    print_table(columns, [[row["group"], *(f"{row[name]:g} %" for name in names)] for row in rows])


@traffic.command()
@click.argument("user")
@_ids_option
@_keys_option
@json_option
def where(user: str, ids: tuple[str, ...], keys: tuple[str, ...]) -> None:
    """Show the slots that USER lands in. USER is the user's value of the bucketing key."""
    _print_placements(list(_placements(user, ids, keys)))


@traffic.command()
@click.argument("user")
@_ids_option
@_keys_option
@json_option
def explain(user: str, ids: tuple[str, ...], keys: tuple[str, ...]) -> None:
    """Explain step by step why USER is in its slots, and why the user can be seen in two experiments."""
    _print_placements(list(_placements(user, ids, keys)), why=True)


def _print_placements(rows: list[dict[str, Any]], *, why: bool = False) -> None:
    exit_if_json(rows)
    for row in rows:
        slot = f"slot {row['slot']}" if row["slot"] else "no slot"
        experiments = ", ".join(f"experiment {experiment}" for experiment in row["experiments"]) or "no experiment"
        echo(f"{row['group']} (by {row['bucketingKey']}): {slot}, {experiments}")
        for number, step in enumerate(row["steps"] if why else (), 1):
            echo(f"  {number}. {step}")
    seen = [f"{', '.join(map(str, row['visible']))} ({row['group']})" for row in rows if row["visible"]]
    if why and seen[1:]:
        echo(f"Groups do not exclude each other, so the user can be seen in experiments {', '.join(seen)}.")


def _placements(user: str, ids: tuple[str, ...], keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """For each chosen group, the slot of a user, its experiments, those that no other group hides, and why."""
    from aiomutex.plan.experiments import experiments_in

    live = live_groups()
    chosen = {group.id for group in _salted(live, keys)}
    rules = [aiomutex.traffic.Bucketing(group) for group in _chosen(live) if group.bucketing_salt]
    placed = [(rule, rule.slot(user, ids=ids)) for rule in rules]
    hidden: dict[int, str] = {}
    for rule, slot in placed:
        held = slot.experiments if slot else []
        hidden |= dict.fromkeys(experiments_in([rule.group]).difference(held), _name(rule.group))
    for rule, slot in placed:
        if rule.group.id not in chosen:
            continue
        held = slot.experiments if slot else []
        visible = [each for each in held if each not in hidden]
        steps = _steps(rule, user, ids)
        for each in sorted({*held} - {*visible}):
            steps += [f"Experiment {each} is not visible: in {hidden[each]} the user is in none of its slots."]
        if visible[1:]:
            steps += [f"Experiments {', '.join(map(str, visible))} share the slot, so all of them are visible."]
        row: dict[str, Any] = {"group": _name(rule.group), "bucketingKey": rule.group.bucketing_key}
        yield row | {"slot": slot.index if slot else None, "experiments": held, "visible": visible, "steps": steps}


def _steps(rule: aiomutex.traffic.Bucketing, user: str, ids: tuple[str, ...]) -> list[str]:
    """Why a user is in a slot: individuals first, then the bucket value and the ranges of the slots."""
    if listed := [each for each in (user, *ids) if each in rule.individuals]:
        return [f"The slot lists {listed[0]} as an individual, so the bucket value does not matter."]
    steps = ["No slot lists the user as an individual."]
    if not user:
        return [*steps, "An empty value is in no slot."]
    ends = [0, *(end // 100 for end in rule.ends)]
    bounds = zip(rule.slots, ends, ends[1:], strict=False)
    ranges = [f"slot {each.index} has {start:,} to {end - 1:,}" for each, start, end in bounds if start < end]
    steps += [f"The bucket value is murmur3_x86_32({rule.prefix + user!r}) // 100 = {rule.value(user):,}."]
    return [*steps, f"Of 0 to 42,949,672, {', '.join(ranges) or 'no slot has a value'}; no slot has the rest, if any."]


@traffic.command()
@click.argument("users", type=FilePath(exists=True, allow_dash=True))
@click.option("--plan", "file", type=FilePath(exists=True), help="Desired state or saved plan.")
@_keys_option
@click.option("--all", "all_users", is_flag=True, help=f"Count all users, not a sample of {_SAMPLE:,}.")
@click.option("--overlaps", type=click.IntRange(0), default=50, help="Pairs of experiments to show.")
@json_option
def simulate(users: str, file: str | None, keys: tuple[str, ...], all_users: bool, overlaps: int) -> None:
    """Count the users in each slot and experiment. USERS is a file with one ID per line; use - for standard input."""
    from aiomutex.traffic import sampling_error

    ids = aiomutex.traffic.read_users(0 if users == "-" else users)
    live, _, changes, _ = look(file)
    chosen = _salted(live, keys)
    sample, population = (ids, 0) if all_users else aiomutex.traffic.sample_users(ids, _SAMPLE)
    result: Any
    if file is None:
        result = aiomutex.traffic.simulate(chosen, sample, overlaps=overlaps)
    else:
        result = aiomutex.traffic.compare(chosen, _salted(aiomutex.plan.after(changes, live), keys), sample)
    is_sample = population > result.users
    fields = {"population": population, "margin": sampling_error(0.5, result.users, population)} if is_sample else {}
    exit_if_json(result, fields)

    def percent(amount: int) -> str:
        part = amount / max(result.users, 1)
        return f"{part:.1%}" + (f" ± {sampling_error(part, result.users, population):.1%}" if is_sample else "")

    def share(amount: int) -> str:
        return percent(amount) if is_sample else f"{counted(amount, 'user')} ({percent(amount)})"

    if is_sample:
        echo(f"A random sample of {result.users:,} of {population:,} users, with 95 % confidence (--all counts all):")
    if file is not None:
        echo(f"{percent(result.moved)} of {result.users:,} users would move")
        for move in result.experiments:
            change = f"(+{move.gained:,} −{move.lost:,})"  # noqa: RUF001  # a minus sign
            echo(f"    experiment {move.experiment}: {move.before:,} → {move.after:,} users {change}")
        return
    for group in result.groups:
        slots = ", ".join(f"slot {index}: {share(amount)}" for index, amount in group.slots.items())
        echo(f"{group.key or group.group_id}: {slots}; no slot: {share(group.unallocated)}")
    for experiment, amount in result.experiments.items():
        echo(f"experiment {experiment}: {share(amount)}")
    for overlap in result.overlaps:
        echo(f"experiments {overlap.first} and {overlap.second}: {share(overlap.users)} in both")


def _name(group: aiomutex.MutexGroup) -> str:
    return group.key or group.id


def _chosen(groups: Iterable[aiomutex.MutexGroup], keys: Collection[str] = ()) -> list[aiomutex.MutexGroup]:
    """Return the groups that are not archived, with one of the keys, if any."""
    chosen = {normalize("NFC", key) for key in keys}
    live = [group for group in groups if not group.deleted and (not keys or normalize("NFC", group.key) in chosen)]
    if missing := chosen - {normalize("NFC", group.key) for group in live}:
        fail(f"there is no group with the key {' or '.join(sorted(missing))}")
    return live


def _salted(groups: Iterable[aiomutex.MutexGroup], keys: Collection[str]) -> list[aiomutex.MutexGroup]:
    """Return the chosen groups that users can land in; report those without a salt."""
    live = _chosen(groups, keys)
    for group in live:
        if not group.bucketing_salt:
            echo(f"aiomutex: skipped group {_name(group)}, which has no bucketing salt", err=True)
    return [group for group in live if group.bucketing_salt]
