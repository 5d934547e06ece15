"""What every target may count on: the key that must not show, a place on disk, an event loop, a bound on time."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import functools
import pickle
import shutil
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from support import KEY

from aiomutex import MutexError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

T = TypeVar("T")

SLOWEST: Final = 2.0
"""Seconds of this process that one input of a few kilobytes may cost."""
LONGEST_MESSAGE: Final = 32_768


class BrokenPromiseError(AssertionError):
    """A target's promise does not hold."""


class Target(NamedTuple):
    """One decoder, header or file parser under attack."""

    read: Callable[[bytes], None]
    """Reads an input; raises what breaks the promise and nothing else."""
    seeds: tuple[bytes, ...]
    words: tuple[str, ...] = ()
    """What the format is made of."""
    share: float = 1.0
    """Of the inputs that others get; less where each touches a disk or a socket."""
    longest: int = 6144


def keep(promise: object, what: str) -> None:
    """Check one promise; unlike ``assert`` under every optimisation, and short to call."""
    if not promise:
        raise BrokenPromiseError(what)


@contextlib.contextmanager
def only(*documented: type[BaseException], keyless: bool = True) -> Generator[None]:
    """Whatever is read inside may fail with one of the documented errors, and that error is harmless.

    Not ``keyless`` are errors that name what the service called after the key, of its own accord.
    """
    try:
        yield
    except documented as error:
        harmless(error, keyless=keyless)


def harmless(error: BaseException, *, keyless: bool = True) -> None:
    """The error shows no key, is of a readable length, can be printed, and survives a pickle and a copy."""
    facts = {name: value for name, value in vars(error).items() if name != "earlier"}
    told = [str(error), repr(error), repr(facts), *traceback.format_exception_only(error)]
    keep(not keyless or all(KEY not in text for text in told), "the key shows in an error")
    keep(all(len(text) < LONGEST_MESSAGE for text in told[:1]), "an error too long to read")
    told[0].encode()
    if isinstance(error, MutexError):
        keep(str(pickle.loads(pickle.dumps(error))) == str(error), "an error that changes in a pickle")
        keep(str(copy.copy(error)) == str(error), "an error that changes in a copy")


def watched(target: Target, data: bytes) -> None:
    """Give a target one input, and hold it to its time."""
    before = time.process_time()
    target.read(data)
    took = time.process_time() - before
    keep(took < SLOWEST, f"{took:.1f} s for {len(data)} bytes")


def text_of(data: bytes) -> str:
    """Bytes as Python hands them to programs: from arguments, files and headers, with halves of surrogate pairs."""
    return data.decode("utf-8", "surrogateescape")


@functools.cache
def folder() -> Path:
    """A place on disk of this process."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def _runner() -> asyncio.Runner:
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in this process's own event loop."""
    return _runner().run(work)
