"""Memory, objects, tasks, open files and connections of this process, which show leaks."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from benchmarks.memory import resident

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Vitals", "vitals"]

_FILES = Path("/proc/self/fd")


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """A process at one moment."""

    memory: float
    """MiB resident."""
    blocks: int
    """Memory blocks that Python has allocated, which includes nearly all objects."""
    heap: int
    """Bytes of libraries and of Python objects over 512 bytes; 0 if the C library does not report them."""
    objects: int
    """Objects tracked by the garbage collector."""
    tasks: int
    files: int
    """Open file descriptors; 0 if the system does not report them."""
    sockets: int
    """The open file descriptors that are sockets."""
    in_use: int
    """Connections in use by a request."""
    pooled: int
    """Idle connections in the pool."""
    cpu: float
    """Processor seconds so far."""


class _Mallinfo(ctypes.Structure):
    """The ``mallinfo2`` struct of glibc."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")),
        *((name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")),
    )
    hblkhd: int
    uordblks: int


def _heap() -> int:
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return 0
    mallinfo2.restype = _Mallinfo
    info: _Mallinfo = mallinfo2()
    return info.uordblks + info.hblkhd


def vitals(connector: aiohttp.BaseConnector | None) -> Vitals:
    """Measure this process and the connections of ``connector``."""
    inside: Any = connector
    gc.collect()
    kinds = _open_files()
    return Vitals(
        memory=resident(),
        blocks=sys.getallocatedblocks(),
        heap=_heap(),
        objects=len(gc.get_objects()),
        tasks=len(asyncio.all_tasks()),
        files=len(kinds),
        sockets=sum(kind.startswith("socket:") for kind in kinds),
        in_use=len(inside._acquired),  # noqa: SLF001  # no public attribute
        pooled=sum(map(len, inside._conns.values())),  # noqa: SLF001
        cpu=time.process_time(),
    )


def _open_files() -> list[str]:
    kinds: list[str] = []
    if _FILES.exists():
        for file in _FILES.iterdir():
            try:
                kinds.append(str(file.readlink()))
            except FileNotFoundError:  # the descriptor of the directory itself
                continue
    return kinds
