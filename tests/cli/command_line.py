"""Run the command line in this process, or in another one on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

from click.testing import CliRunner

from aiomutex.cli.root import root

if TYPE_CHECKING:
    from click.testing import Result

__all__ = ["Aiomutex", "on_a_terminal", "run"]


class Aiomutex(Protocol):
    def __call__(self, *words: str, stdin: str | None = None) -> Result: ...


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(root, words, input=stdin, prog_name="aiomutex")


def on_a_terminal(*words: str, columns: int = 120) -> tuple[int, str]:
    """Run the command line on a terminal. Return the exit code and the output without escape sequences."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "aiomutex", *words]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": str(columns)}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65_536)
            except OSError:  # the process has closed its end
                break
            if not part:
                break
            shown += part
        process.wait()
    os.close(ours)
    return process.returncode, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
