"""What all commands share: a session from the environment, files, exit codes, and output as text, tables or JSON."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar
from unicodedata import normalize

import click
from click.core import ParameterSource

import aiomutex
from aiomutex._util.files import open_private

if TYPE_CHECKING:
    from aiomutex import MutexSession as Session
    from aiomutex.cli.run import Run

_FILES: Final = "aiomutex.cli.files"
_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")  # of the files that SQLite keeps beside a journal

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, expose_value=False, help="Print JSON.")


class FilePath(click.Path):
    """The type of a parameter that names a file. It rejects a file that another parameter of the command names."""

    def __init__(self, *, exists: bool = False, allow_dash: bool = False) -> None:
        super().__init__(exists=exists, dir_okay=False, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check a path."""
        path: Any = super().convert(value, param, ctx)
        if param is not None and ctx is not None:
            name = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
            others: dict[str, str] = ctx.meta.setdefault(_FILES, {})
            for other, given in others.items():
                if any(_is_same_file(path + end, given) or _is_same_file(path, given + end) for end in _SUFFIXES):
                    self.fail(f"{path} is a file of {other} ({given}); choose another name", param, ctx)
            others[name] = path
        return path


def _is_same_file(path: str, other: str) -> bool:
    """Whether both are the same regular file, through links too; ``-`` is standard input."""
    try:
        status, other_status = (os.stat(0 if each == "-" else each) for each in (path, other))  # noqa: PTH116  # a path has no number
    except OSError:  # one of them does not exist yet
        return os.path.realpath(path) == os.path.realpath(other)
    # A terminal may be input and output at once.
    return os.path.samestat(status, other_status) and stat.S_ISREG(status.st_mode)


def call(work: Callable[[Session], Awaitable[T]], *, used_today: int | None = None, guard: Run | None = None) -> T:
    """Run ``work`` with a session configured by the environment. It shares the limits with all runs on this machine."""
    from aiomutex.limits.machine import MachineRateLimiter

    async def main() -> T:
        path = state_file(".db")
        limiter: Any = aiomutex.LocalRateLimiter(used_today=used_today or 0)
        async with contextlib.AsyncExitStack() as stack:
            if path is not None:
                limiter = MachineRateLimiter(path, used_today=used_today)
                stack.push_async_callback(limiter.aclose)
            watched: Any = guard.watch(limiter) if guard else limiter
            session = aiomutex.MutexSession(rate_limiter=watched, on_attempt=guard)
            return await work(await stack.enter_async_context(session))

    return asyncio.run(main())


def live_groups() -> list[aiomutex.MutexGroup]:
    """Read all groups."""
    return call(lambda session: session.list_groups().collect())


def call_on(group: str, work: Callable[[Session, str], Awaitable[T]]) -> T:
    """Run ``work`` with the ID of a group that is given by its ID or key."""

    async def resolved(session: Session) -> T:
        is_id = not group or group.isdecimal() or "/" in group
        group_id, problem = (group, "") if is_id else await id_of(group, session, {})
        return await work(session, fail(problem) if problem else group_id)

    return call(resolved)


async def id_of(key: str, session: Session, ids: dict[tuple[str, bool], list[str]]) -> tuple[str, str]:
    """The ID of the group with a key, or a problem. ``ids``, filled once, are by key and whether archived."""
    if not ids:
        for each in await session.list_groups().collect():
            ids.setdefault((normalize("NFC", each.key), bool(each.deleted)), []).append(each.id)
    name = normalize("NFC", key)
    found = ids.setdefault((name, False), []) or ids.setdefault((name, True), [])
    problem = "several groups have" if found else "there is no group with"
    return (found[0], "") if len(found) == 1 else ("", f"{problem} the key {key}")


def complete_key(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Complete the key of a group, from those that were listed last."""
    path = state_file(".keys")
    return [key for key in (path.read_text("utf-8").splitlines() if path else ()) if key.startswith(incomplete)]


def state_file(suffix: str) -> Path | None:
    """A file of the API key that outlives the run; ``None``, with a warning, if it cannot be used."""
    from platformdirs import user_state_path

    key = os.environ.get("AMPLITUDE_MANAGEMENT_API_KEY")
    if not key:
        return None  # the session reports it
    # An emulator, whatever its port, has a budget of its own.
    service = re.sub(r":[0-9]+/*$", "", os.environ.get("AIOMUTEX_BASE_URL", ""))
    name = hashlib.sha256(os.fsencode(f"{service} {key.strip()}")).hexdigest()[:16]
    try:
        path = user_state_path("aiomutex", appauthor=False, ensure_exists=True) / f"{name}{suffix}"
        with open_private(path, "a"), tempfile.TemporaryFile(dir=path.parent):
            return path  # SQLite can write to the file and beside it
    except OSError as error:
        echo(f"aiomutex: requests are not counted across runs: {error.filename}: {error.strerror}", err=True)
        return None


def printable(text: str, *, keep: str = "\n") -> str:
    """Return ``text`` with control characters escaped, because names and server responses may contain them."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else f"\\x{ord(each):02x}" for each in text)


def echo(text: str, *, err: bool = False) -> None:
    """Print ``text`` with control characters escaped."""
    click.echo(printable(text), err=err)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print an error to standard error and exit with ``code``."""
    echo(f"aiomutex: {message}", err=True)
    raise click.exceptions.Exit(code)


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless ``yes`` is the answer, and abort unless the user agrees."""
    if not (yes or sys.stdin.isatty()):
        fail(f"{question} There is no terminal to ask for confirmation; pass --yes", 2)
    if not yes:
        click.confirm(question, abort=True)


def print_json(value: Any, fields: Mapping[str, Any] | None = None) -> None:
    """Print a value as JSON, with the field names of the service, and more ``fields``, if any."""
    import msgspec

    data = msgspec.json.encode(msgspec.to_builtins(value) | fields if fields else value)
    sys.stdout.buffer.write(msgspec.json.format(data, indent=2) + b"\n")
    sys.stdout.flush()


def is_given(parameter: str) -> bool:
    """Whether the command line of the current command has a parameter."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.COMMANDLINE


def exit_if_json(value: Any, fields: Mapping[str, Any] | None = None, *, code: int = 0) -> None:
    """With ``--json``, print a value as ``print_json`` does, and exit."""
    if is_given("as_json"):
        print_json(value, fields)
        raise click.exceptions.Exit(code)


class Column(NamedTuple):
    """A column, and how it may give way on a narrow terminal."""

    title: str
    right: bool = False
    least: int | None = None  # the width to which its cells may be shortened
    drop: int = 0  # its place in the order in which columns are left out, empty ones first; 0 if never


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under the titles of their columns."""
    from rich.cells import cell_len, set_cell_size

    def fitted(text: str, number: int) -> str:
        width = widths[number]
        if columns[number].right:
            return " " * (width - cell_len(text)) + text
        if cell_len(text) > width:
            text = set_cell_size(text, width - 1)
            # A number is shown whole or not at all.
            text = (text[: text.rindex(", ") + 2] if ", " in text else text.rstrip()) + "…"
        return set_cell_size(text, width)

    cells = [[column.title for column in columns], *([printable(cell, keep="") for cell in row] for row in rows)]
    by_column = list(zip(*cells, strict=True))
    widths = [max(map(cell_len, column)) for column in by_column]
    shown = list(range(len(columns)))
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        least = [min(width, column.least or width) for width, column in zip(widths, columns, strict=True)]
        for each in sorted(shown, key=lambda each: (any(by_column[each][1:]), columns[each].drop)):
            if columns[each].drop and sum(least[other] + 2 for other in shown) > room + 2:
                shown.remove(each)
        while sum(widths[each] + 2 for each in shown) > room + 2 and any(widths[each] > least[each] for each in shown):
            widths[max(shown, key=lambda each: widths[each] * (widths[each] > least[each]))] -= 1
    for number, row in enumerate(cells):
        line = "  ".join([fitted(row[each], each) for each in shown]).rstrip()
        click.secho(line, bold=True) if number == 0 else click.echo(line)
