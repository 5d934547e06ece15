"""Text files: reading untrusted ones line by line, with a maximum length, and writing those that hold user IDs.

An endless line, such as that of a device or a sparse file, raises an error instead of filling the memory.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from aiomutex.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

MAX_LINE: Final = 16 * 2**20  # characters; an edit with a quarter of a million user IDs has as many


class LineTooLongError(InvalidRequestError):
    """A line, numbered from 1, is longer than the maximum."""

    def __init__(self, line: int) -> None:
        super().__init__(f"longer than {MAX_LINE:,} characters; the rest of the file was not read")
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line} is {self.args[0]}"


def lines_of(file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file, each with its line break, without a byte order mark."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), ""), start=1):
        if len(line) > MAX_LINE:
            raise LineTooLongError(number)
        yield line.removeprefix("\ufeff") if number == 1 else line


def open_private(path: str | os.PathLike[str], mode: Literal["w", "a"] = "w") -> IO[str]:
    """Open a text file to write or to append to. A new file is for its owner only; an existing one keeps its mode."""
    return open(  # a Path has no opener
        path, mode, buffering=1, encoding="utf-8", errors="surrogateescape", newline="\n", opener=_open_private
    )


def _open_private(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    # A link to a file may have been planted to have that file overwritten. Devices may be links: /dev/stdout is one.
    if Path(path).is_file():
        raise OSError(errno.ELOOP, "is a symbolic link; pass the name of the file itself", path)
    return os.open(path, flags & ~(os.O_CREAT | os.O_TRUNC))


def fill_page(template: Path, data: bytes) -> str:
    """Return an HTML template with JSON in place of ``__DATA__``. No text in it can end the script element."""
    return template.read_text("utf-8").replace("__DATA__", data.decode().replace("<", "\\u003c"))


def never_close(connection: object) -> None:
    """Keep an SQLite connection that a forked process inherited: closing it could delete what the parent is writing."""
    import ctypes  # noqa: PLC0415  # rarely needed

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # never deallocated, not even at exit
