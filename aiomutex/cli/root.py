"""The root command, and the list of its subcommands."""

from __future__ import annotations

import asyncio
import codecs
import errno
import io
import os
import sys
import tomllib
from importlib import resources
from typing import Any, Final

import click

from aiomutex.cli.common import fail
from aiomutex.cli.emulator import demo, emulator, probe
from aiomutex.cli.groups import groups
from aiomutex.cli.plan import apply, lint, plan, pull, report, show
from aiomutex.cli.slots import slots
from aiomutex.cli.traffic import traffic
from aiomutex.errors import MutexError

_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}
_PLAIN: Final = str.maketrans("█░…×±−→·", "#.~x+->-")  # noqa: RUF001  # signs of our own output


def _replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Print something like what an encoding lacks: a similar sign, else its escape sequence."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101  # the streams are written only
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(_replace_unencodable.__name__, _replace_unencodable)


class _Root(click.Group):
    """Report errors of the library, unusable files and Ctrl-C in one line, for every subcommand."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line. The standard streams take any text; closed ones lead nowhere."""
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            stream = getattr(sys, name)
            if stream is None:
                # This also takes the free descriptor, which the next file to be opened would get otherwise.
                setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123  # stays open
            elif mode == "w" and isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_replace_unencodable.__name__)
        return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MutexError as error:
            fail(str(error), 2 if isinstance(error, ValueError) else 1)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click exits silently
            fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except (KeyboardInterrupt, asyncio.CancelledError):
            # Commands with their own handler for Ctrl-C cancel their task.
            fail("interrupted", 130)


@click.group(cls=_Root, context_settings=_SETTINGS)
@click.version_option(package_name="aiomutex", message="%(prog)s %(version)s")
def root() -> None:
    """Read and edit mutex groups of Amplitude Experiment."""


@root.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, and the keys of the groups that were listed last."""
    from click.shell_completion import shell_complete

    shell_complete(root, {}, "aiomutex", "_AIOMUTEX_COMPLETE", f"{shell}_source")


def _describe(command: click.Command, texts: dict[str, str], *words: str) -> None:
    """Add the texts of help.toml to the help of a command and its subcommands."""
    for text in filter(None, texts.get(" ".join(words), "").strip().split("\n\n")):
        command.help = f"{command.help}\n\n" + ("\b\n" if "\n" in text else "") + text
    command.epilog = f"\b\n{texts['exit codes']}"
    for name, child in command.commands.items() if isinstance(command, click.Group) else ():
        _describe(child, texts, *words, name)


for each in (groups, slots, pull, plan, show, apply, lint, report, traffic, probe, emulator, demo):
    root.add_command(each)
_describe(root, tomllib.loads((resources.files("aiomutex.cli") / "help.toml").read_text("utf-8")))
