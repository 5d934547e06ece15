"""Run the command line in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from click.testing import CliRunner

from aiomutex.cli.root import root

if TYPE_CHECKING:
    from click.testing import Result

__all__ = ["Aiomutex", "run"]


class Aiomutex(Protocol):
    def __call__(self, *words: str, stdin: str | None = None) -> Result: ...


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(root, words, input=stdin, prog_name="aiomutex")
