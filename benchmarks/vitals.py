"""What a leak would show in: memory, objects, tasks, open files and connections of this process."""

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
    """Pieces of memory that Python holds: nearly all objects, whether the collector knows them or not."""
    heap: int
    """Bytes of all that has more than 512, and of libraries; 0 where C's allocator does not tell."""
    objects: int
    """Objects that the garbage collector knows."""
    tasks: int
    files: int
    """Open file descriptors; 0 where the system does not tell."""
    sockets: int
    """Those of them that are sockets."""
    in_use: int
    """Connections that a request holds."""
    pooled: int
    """Connections that wait for their next request."""
    cpu: float
    """Processor seconds so far."""


class _Mallinfo(ctypes.Structure):
    """What glibc tells of its allocator: ten sizes, in this order."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks")),
        *((name, ctypes.c_size_t) for name in ("fsmblks", "uordblks", "fordblks", "keepcost")),
    )
    hblkhd: int
    uordblks: int


def _heap() -> int:
    try:
        tell = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return 0
    tell.restype = _Mallinfo
    told: _Mallinfo = tell()
    return told.uordblks + told.hblkhd


def vitals(connector: aiohttp.BaseConnector | None) -> Vitals:
    """Look at this process, and at the connections that ``connector`` keeps."""
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
        in_use=len(inside._acquired),  # noqa: SLF001  # aiohttp tells nobody
        pooled=sum(map(len, inside._conns.values())),  # noqa: SLF001
        cpu=time.process_time(),
    )


def _open_files() -> list[str]:
    kinds: list[str] = []
    if _FILES.exists():
        for file in _FILES.iterdir():
            try:
                kinds.append(str(file.readlink()))
            except FileNotFoundError:  # the one that the folder is read through
                continue
    return kinds
