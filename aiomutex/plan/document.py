"""A file as a tree of plain values, each of which knows the line it stands on.

What the three formats have in common after reading: mappings, lists and scalars. The bounds on size and depth are
here too, because a file under review may come from anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from aiomutex.errors import MutexError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "DesiredFileError", "Entry", "Node", "Problem", "Scalar", "read_file"]

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 12
MAX_NODES: Final = 2_000_000
_SHOWN_PROBLEMS: Final = 20

Scalar: TypeAlias = str | int | float | bool | None


class Entry(NamedTuple):
    """One entry of a mapping."""

    line: int
    """The line of its key."""
    node: Node


class Node(NamedTuple):
    """One value and the line it starts on, from 1; 0 where the line is not known."""

    line: int
    value: Scalar | list[Node] | dict[str, Entry]


class Problem(NamedTuple):
    """One thing that is wrong with a file."""

    line: int
    text: str


def read_file(path: Path) -> bytes:
    """What a file holds, if it is one that ends.

    Raises:
        DesiredFileError: It is no regular file, or has more than ``MAX_BYTES`` bytes.
        OSError: It cannot be read.
    """
    if path.exists() and not path.is_file():
        raise DesiredFileError(str(path), [Problem(0, "it is no regular file")])
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DesiredFileError(str(path), [Problem(0, f"the file has more bytes than the {MAX_BYTES:,} that are read")])
    return data


class DesiredFileError(MutexError, ValueError):
    """A file cannot be read as a desired state; nothing was sent. The message has a line for each problem.

    Attributes:
        file: The file's name.
        problems: What is wrong, each with its line (0 where it is not known).
    """

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        shown = [f"{file}:{line}: {text}" if line else f"{file}: {text}" for line, text in problems[:_SHOWN_PROBLEMS]]
        if len(problems) > _SHOWN_PROBLEMS:
            shown.append(f"{file}: and {len(problems) - _SHOWN_PROBLEMS:,} problems more")
        super().__init__("\n".join(shown))
        self.file = file
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[DesiredFileError], tuple[str, tuple[Problem, ...]]]:
        """Pickle by the arguments, which the message alone would lose."""
        return DesiredFileError, (self.file, self.problems)
