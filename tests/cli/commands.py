"""All commands of the command line, for tests that hold for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aiomutex.cli.root import root

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["commands", "file_parameters"]


def commands(command: click.Command = root, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is not a group, with the words that call it."""
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, *words, name)
    else:
        yield words, command


def file_parameters(command: click.Command) -> list[click.Parameter]:
    return [parameter for parameter in command.params if isinstance(parameter.type, click.Path)]


def words_of(command: click.Command, files: dict[str | None, str]) -> list[str]:
    """Arguments that call a command: these files, and a number for each other argument that it requires."""
    words: list[str] = []
    for parameter in command.params:
        value: Any = files.get(parameter.name, "1" if parameter.required else None)
        if value is not None:
            words += [parameter.opts[0], value] if isinstance(parameter, click.Option) else [value]
    return words
