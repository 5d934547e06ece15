"""A disk that knows what would survive a power failure: for each file, its content when it was last synced.

SQLite syncs files inside its library, so this puts a VFS of its own in front of SQLite's, with a different ``xSync``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

if TYPE_CHECKING:
    import random
    from collections.abc import Generator

__all__ = ["Disk"]

_OPEN: Final = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_SYNC: Final = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):
    """``sqlite3_vfs``, version 3."""

    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("max_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", _OPEN),
        ("others", c_void_p * 15),
    )


class _Methods(Structure):
    """``sqlite3_io_methods``, version 3."""

    _fields_ = (("version", c_int), ("before", c_void_p * 4), ("sync", _SYNC), ("after", c_void_p * 13))


class _File(Structure):
    """``sqlite3_file``, which every VFS extends."""

    _fields_ = (("methods", POINTER(_Methods)),)


def _library() -> Any:
    """The SQLite library that the module ``sqlite3`` uses, or ``None`` if it cannot be reached."""
    import _sqlite3  # noqa: PLC0415

    try:
        library: Any = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        library.sqlite3_libversion.restype = c_char_p
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        matches = library.sqlite3_libversion().decode() == sqlite3.sqlite_version
    except (OSError, AttributeError):
        return None
    return library if matches else None


class _SyncWatcher:
    """The VFS. It exists once, as SQLite keeps pointers to it."""

    def __init__(self, library: Any) -> None:
        self.disk: Disk | None = None
        self._library = library
        self._paths: dict[int, str] = {}
        self._methods: dict[int, _Methods] = {}
        self._original = library.sqlite3_vfs_find(None)
        self._vfs = _Vfs.from_buffer_copy(self._original.contents)
        self._vfs.name = b"simulation"
        self._vfs.open = _OPEN(self._open)
        self._sync_callback = _SYNC(self._sync)

    def install(self, *, default: bool) -> None:
        """Let new connections use this VFS, or SQLite's own again."""
        vfs = ctypes.byref(self._vfs) if default else self._original
        self._library.sqlite3_vfs_register(vfs, 1)

    def _open(self, _vfs: int, name: int | None, file: int, flags: int, flags_out: int | None) -> int:
        original = self._original.contents
        # The name goes on as the pointer it came as: SQLite keeps that pointer, and reads more behind the name.
        result: int = original.open(ctypes.addressof(original), name, file, flags, flags_out)
        if result == 0 and name is not None:
            opened = _File.from_address(file)
            address = ctypes.addressof(opened.methods.contents)
            if address not in self._methods:
                self._methods[address] = _Methods.from_buffer_copy(opened.methods.contents)
                self._methods[address].sync = self._sync_callback
            opened.methods = ctypes.pointer(self._methods[address])
            self._paths[file] = os.fsdecode(ctypes.string_at(name))
        return result

    def _sync(self, file: int, _flags: int) -> int:
        if self.disk is not None:
            self.disk.synced(self._paths[file])
        return 0


class Disk:
    """The files of one run.

    Args:
        directory: Where they are.
    """

    _watcher: _SyncWatcher | None = None
    library: Final = _library()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._kept: dict[str, bytes] = {}

    @contextlib.contextmanager
    def watched(self) -> Generator[None]:
        """Note each sync."""
        if self.library is None:
            yield
            return
        cls = type(self)
        watcher = cls._watcher = cls._watcher or _SyncWatcher(self.library)
        watcher.disk = self
        watcher.install(default=True)

        def fsync(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            self.synced(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115  # not a path of the file system

        try:
            with mock.patch.object(os, "fsync", fsync), mock.patch.object(os, "fdatasync", fsync):
                yield
        finally:
            watcher.install(default=False)
            watcher.disk = None

    def synced(self, path: str) -> None:
        """Keep the present content of a file."""
        if Path(path).is_file():
            self._kept[path] = Path(path).read_bytes()

    def crash(self, target: Path, *, power: bool, rng: random.Random) -> None:
        """Go on with a copy of the files, as a process that dies now leaves them, or a power failure."""
        target.mkdir()
        for path in sorted(self.directory.iterdir()):
            content, kept = path.read_bytes(), self._kept.get(str(path), b"")
            if power:
                content = kept = _survivor(content, kept, rng)
            if content:
                (target / path.name).write_bytes(content)
            self._kept[str(target / path.name)] = kept
        self.directory = target


def _survivor(content: bytes, kept: bytes, rng: random.Random) -> bytes:
    """What is left of a file: what was synced for certain, and perhaps something of what was written since."""
    if content.startswith(kept):
        return content[: rng.choice((len(kept), rng.randint(len(kept), len(content))))]
    block = 512
    blocks = range(0, max(len(content), len(kept)), block)
    return b"".join(rng.choice((content, kept))[start : start + block] for start in blocks)
