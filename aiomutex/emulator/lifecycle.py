"""Start and stop the emulator, in the current event loop or in a thread: its listener and its state file."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Self

from aiomutex.emulator.background import BackgroundLoop
from aiomutex.emulator.controls import Controls
from aiomutex.emulator.listener import Listener
from aiomutex.emulator.state_file import StateFile

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from aiomutex.emulator.app import Application
    from aiomutex.emulator.clock import Clock
    from aiomutex.emulator.faults import Latency
    from aiomutex.emulator.service import Service
    from aiomutex.emulator.state import Group, GroupStore

__all__ = ["Lifecycle"]


class Lifecycle(Controls):
    """The context managers of ``MutexEmulator``, its port and its URL."""

    def __init__(
        self,
        app: Application,
        service: Service,
        clock: Clock,
        *,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None,
        handshake_delay: Latency,
        seed: int,
        state_path: Path | None,
    ) -> None:
        super().__init__(app, service, clock)
        self.host = host
        self._requested_port = port
        self._port: int | None = None
        self._ssl_context = ssl_context
        self._handshake_delay = handshake_delay
        self._seed = seed
        self._state_path = state_path
        self._state: StateFile | None = None
        self._listener: Listener | None = None
        self._background: BackgroundLoop | None = None
        service.on_commit = self._save if state_path else None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def __enter__(self) -> Self:
        if self._background is not None:
            raise RuntimeError("the emulator is already running")
        self._background = BackgroundLoop(self._start, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        background, self._background = self._background, None
        if background is not None:
            background.stop()

    async def _start(self) -> None:
        if self._listener is not None:
            raise RuntimeError("the emulator is already running")
        listener = Listener(
            self._app.handle,
            host=self.host,
            port=self._requested_port,
            ssl_context=self._ssl_context,
            handshake_delay=self._handshake_delay,
            rng=Random(self._seed),
        )
        if self._state_path is not None:
            self._state = StateFile(self._state_path)
            self._state.save_all(self.groups)
        try:
            self._port = await listener.open()
        except BaseException:
            self._close_state()
            raise
        self._listener = listener
        self._service.base_url = self.url

    async def _stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        try:
            await listener.close()
        finally:
            self._port = None
            self._app.late.clear()
            try:
                if self._state is not None:
                    # Tests may have changed groups directly, which does not save them.
                    self._state.save_all(self.groups)
            finally:
                self._close_state()

    def _close_state(self) -> None:
        if self._state is not None:
            self._state.close()
            self._state = None

    def _save(self, group: Group) -> None:
        if self._state is not None:
            self._state.save(group)

    @property
    def port(self) -> int:
        """The port that it listens on.

        Raises:
            RuntimeError: The emulator is not running.
        """
        if self._port is None:
            raise RuntimeError("the emulator is not running; start it with `async with` or `with`")
        return self._port

    @property
    def url(self) -> str:
        """The base URL for clients, such as ``http://127.0.0.1:54321``.

        Raises:
            RuntimeError: The emulator is not running.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._ssl_context else 'http'}://{host}:{self.port}"

    def _replace(self, store: GroupStore) -> None:
        self._service.store = store
        self._service.history.clear()
        self._app.late.clear()
        if self._state is not None:
            self._state.save_all(store)
