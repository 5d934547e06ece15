"""Reading untrusted text files line by line, with a maximum length.

An endless line, such as that of a device or a sparse file, raises an error instead of filling the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiomutex.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

__all__ = ["MAX_LINE", "LineTooLongError", "lines_of"]

MAX_LINE: Final = 16 * 2**20
"""Characters; an edit with a quarter of a million user IDs has as many."""


class LineTooLongError(InvalidRequestError):
    """A line is longer than the maximum.

    Attributes:
        line: Its number, from 1.
    """

    def __init__(self, line: int) -> None:
        super().__init__(f"longer than {MAX_LINE:,} characters; the rest of the file was not read")
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line} is {self.args[0]}"


def lines_of(file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file, each with its line break, without a byte order mark.

    Raises:
        LineTooLongError: A line has more than ``MAX_LINE`` characters.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise LineTooLongError(number)
        yield line.removeprefix("\ufeff") if number == 1 else line
