"""The command line: a thin skin over the library, in the extra ``cli``.

Each module holds the commands of one noun; what they share is in ``common``. Nothing heavy is imported before a
command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script ``aiomutex``."""
    try:
        from aiomutex.cli.root import root
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"aiomutex: the command line needs {error.name}; install it with: pip install 'aiomutex[cli]'")
    root.main(prog_name="aiomutex")
