"""The files of a command: each parameter names one of its own, so that no command writes over another of its files."""

from __future__ import annotations

import os
import stat
from typing import Any, Final

import click

__all__ = ["FilePath"]

_META: Final = "aiomutex.cli.files"
_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
"""SQLite keeps files with these suffixes next to a journal or state file."""


class FilePath(click.Path):
    """The type of a parameter that names a file. It rejects a file that another parameter of the command names."""

    def __init__(self, *, exists: bool = False, allow_dash: bool = False) -> None:
        super().__init__(exists=exists, dir_okay=False, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check a path."""
        path: Any = super().convert(value, param, ctx)
        if param is not None and ctx is not None:
            name = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
            others: dict[str, str] = ctx.meta.setdefault(_META, {})
            for other, given in others.items():
                if any(_is_same_file(path + end, given) or _is_same_file(path, given + end) for end in _SUFFIXES):
                    self.fail(f"{path} is a file of {other} ({given}); choose another name", param, ctx)
            others[name] = path
        return path


def _is_same_file(path: str, other: str) -> bool:
    """Whether both are the same regular file, through links too; ``-`` is standard input."""
    try:
        status, other_status = (os.stat(0 if each == "-" else each) for each in (path, other))  # noqa: PTH116
    except OSError:  # one of them does not exist yet
        return os.path.realpath(path) == os.path.realpath(other)
    # A terminal may be input and output at once.
    return os.path.samestat(status, other_status) and stat.S_ISREG(status.st_mode)
