"""A file as a tree of plain values, each with its line, and the error that reports what is wrong with a file.

The limits on size and depth are here too, because a file under review may come from an untrusted author.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from aiomutex.errors import MutexError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 12
MAX_NODES: Final = 2_000_000
_SHOWN_PROBLEMS: Final = 20

Scalar: TypeAlias = str | int | float | bool | None


class Node(NamedTuple):
    """One value and the line that it or its key is in, from 1; 0 if the line is unknown."""

    line: int
    value: Scalar | list[Node] | dict[str, Node]


class Problem(NamedTuple):
    """One problem of a file, with its line; 0 if the line is unknown."""

    line: int
    text: str


def read_file(path: Path) -> bytes:
    """Read a regular file of at most ``MAX_BYTES`` bytes; anything else is a ``DesiredFileError``."""
    if path.exists() and not path.is_file():
        raise DesiredFileError(str(path), [Problem(0, "not a regular file")])
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DesiredFileError(str(path), [Problem(0, f"the file has more than {MAX_BYTES:,} bytes")])
    return data


class DesiredFileError(MutexError, ValueError):
    """A file is not a valid desired state or saved plan. Nothing was sent. The message has a line for each problem.

    Attributes:
        file: The file's name.
        problems: The problems, each with its line (0 if the line is unknown).
    """

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        shown = [f"{file}:{line}: {text}" if line else f"{file}: {text}" for line, text in problems[:_SHOWN_PROBLEMS]]
        if len(problems) > _SHOWN_PROBLEMS:
            shown.append(f"{file}: and {len(problems) - _SHOWN_PROBLEMS:,} more problems")
        super().__init__("\n".join(shown))
        self.file = file
        self.problems = tuple(problems)
