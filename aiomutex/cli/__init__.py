"""The command line, in the extra ``cli``. Each command imports what it needs when it runs."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. This is the console script ``aiomutex``."""
    try:
        from aiomutex.cli.root import root
    except ModuleNotFoundError as error:
        if error.name not in ("click", "platformdirs", "rich"):
            raise
        sys.exit(f"aiomutex: the command line needs {error.name}; install it with: pip install 'aiomutex[cli]'")
    root.main(prog_name="aiomutex")
