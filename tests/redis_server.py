"""A real Redis server on a free port, for the tests that need one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    import signal
    from pathlib import Path

PERMITS = 97
"""Permits in a window at the default limits: the length of a limiter's log in Redis."""


class RedisServer:
    """A ``redis-server`` or ``valkey-server`` process that listens on loopback and stores nothing.

    Args:
        directory: The server's working directory.
        options: More command-line options, such as ``--requirepass``.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise RuntimeError("these tests need Redis 6 or later: apt-get install redis-server")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        self._command += ["--save", "", "--daemonize", "no", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the process, also after ``kill``, and wait until it responds."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(64):
                        return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("redis-server did not start")

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill the process and wait for its end. No error if it is not running."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def reset(self, *budgets: str) -> None:
        """Empty the server, then give each of ``budgets`` a log of old send times.

        A limiter that finds no log waits one window, because permits may have been granted that no log shows. With an
        old log it grants at once.
        """
        client: Any = redis.Redis(port=self.port)
        client.flushall()
        for name in budgets:
            client.rpush(f"{{aiomutex:{name}}}:log", *[1] * PERMITS)
            client.hset(f"{{aiomutex:{name}}}:state", "run_id", client.info("server")["run_id"])
        client.close()

    def send(self, command: str) -> bytes:
        """Send one inline command; return the start of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(65_536)
