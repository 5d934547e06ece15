"""What the fuzz targets share: checks, a temporary directory, an event loop, and a limit on time."""

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
"""Seconds of processor time that one input of a few kilobytes may take."""
LONGEST_MESSAGE: Final = 32_768


class BrokenPromiseError(AssertionError):
    """A promise of a target does not hold."""


class Target(NamedTuple):
    """One decoder, header or file parser."""

    read: Callable[[bytes], None]
    """Reads an input. It raises only if a promise is broken."""
    seeds: tuple[bytes, ...]
    """Valid inputs to start from."""
    words: tuple[str, ...] = ()
    """Words of the format, for mutations."""
    share: float = 1.0
    """Its share of the inputs that other targets get, for targets that use a disk or a socket."""
    longest: int = 6144


def keep(promise: object, what: str) -> None:
    """Check one promise. Unlike ``assert``, it also works with ``python -O``."""
    if not promise:
        raise BrokenPromiseError(what)


@contextlib.contextmanager
def only(*documented: type[BaseException], keyless: bool = True) -> Generator[None]:
    """Allow only the documented errors inside the block, and check that they are harmless.

    Args:
        documented: The classes of the allowed errors.
        keyless: Whether the error must not show the key. It may show a group that is named like the key.
    """
    try:
        yield
    except documented as error:
        harmless(error, keyless=keyless)


def harmless(error: BaseException, *, keyless: bool = True) -> None:
    """Check that an error shows no key, has a readable length, can be printed, and survives a pickle and a copy."""
    facts = {name: value for name, value in vars(error).items() if name != "earlier"}
    texts = [str(error), repr(error), repr(facts), *traceback.format_exception_only(error)]
    keep(not keyless or all(KEY not in text for text in texts), "an error shows the key")
    keep(all(len(text) < LONGEST_MESSAGE for text in texts[:1]), "an error message that is too long")
    texts[0].encode()
    if isinstance(error, MutexError):
        keep(str(pickle.loads(pickle.dumps(error))) == str(error), "the error changed in a pickle")
        keep(str(copy.copy(error)) == str(error), "the error changed in a copy")


def run_target(target: Target, data: bytes) -> None:
    """Run a target with one input, and check its time."""
    before = time.process_time()
    target.read(data)
    seconds = time.process_time() - before
    keep(seconds < SLOWEST, f"{seconds:.1f} s for {len(data)} bytes")


def text_of(data: bytes) -> str:
    """Decode bytes as Python decodes arguments, files and headers, with surrogates for invalid bytes."""
    return data.decode("utf-8", "surrogateescape")


@functools.cache
def folder() -> Path:
    """Return a temporary directory of this process."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def _runner() -> asyncio.Runner:
    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the event loop of this process."""
    return _runner().run(work)
