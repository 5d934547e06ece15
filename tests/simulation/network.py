"""The network without sockets: connections in memory between aiohttp and the model of the service, with faults."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import http
import json
import math
import random
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import aiohttp

from .scenario import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .clock import SimulationLoop
    from .scenario import Scenario
    from .service import ModelService

__all__ = ["Connection", "Network", "Process", "Sent", "current_call", "current_job", "current_process", "permitted_at"]

current_call: ContextVar[str] = ContextVar("current_call", default="")
"""The call that the current task belongs to."""
current_job: ContextVar[str] = ContextVar("current_job", default="")
"""The job of a fleet that the current task belongs to."""
current_process: ContextVar[Process | None] = ContextVar("current_process", default=None)
"""The process that the current task belongs to, if it is not the one of the phase."""
permitted_at: ContextVar[float] = ContextVar("permitted_at", default=0.0)
"""When the limiter of a fleet's worker granted the request that the current task sends."""
_NO_FAULT: Final = Fault(request=0, kind="slow")
_PAGE: Final = b"<!doctype html><title>Maintenance</title><p>We will be back soon."


@dataclass
class Process:
    """One process of the client: dead after a crash. A worker of a fleet lives through phases, and has their faults."""

    number: int
    faults: dict[int, Fault]
    on_request: dict[int, Callable[[], None]]
    on_response: dict[int, Callable[[], None]]
    is_worker: bool = False
    is_alive: bool = True
    died_at: float = math.inf
    requests: int = 0
    connects: int = 0
    frozen: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """When it was frozen, and when it went on: never before ``math.inf``."""
    held: list[asyncio.Handle] = field(default_factory=list[asyncio.Handle])
    """What the event loop has to run when the process goes on."""

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of it runs now."""
        return bool(self.frozen) and self.frozen[-1][1] == math.inf


@dataclass
class Sent:
    """One request that the client wrote."""

    number: int
    call: str
    sender: Process
    at: float
    wall: float
    method: str
    path: str
    body: bytes
    arrived: float | None = None
    over: float | None = None
    """When its response arrived, or the client gave it up."""
    is_answered: bool = False
    """Whether the client got what the service answered."""
    on_over: Callable[[], object] | None = None
    permitted_at: float = 0.0
    """When the limiter granted it, if a fleet's worker sent it."""
    job: str = ""

    @property
    def process(self) -> int:
        """The number of the process that sent it."""
        return self.sender.number


@dataclass
class Network:
    """All connections, and the record of what was sent."""

    loop: SimulationLoop
    service: ModelService
    scenario: Scenario
    process: Process
    trace: Callable[[str], None]
    sent: list[Sent] = field(default_factory=list[Sent])
    open: dict[Connection, None] = field(default_factory=dict["Connection", None])
    most: int = 20_000
    """The number of requests at which a run counts as endless."""
    on_excess: Callable[[], None] | None = None
    down_until: float = 0.0
    """No connection is made before."""

    def submit(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        """Take a request that the client wrote."""
        process = connection.process
        if not process.is_alive:
            return
        counter = self.process if process.is_worker else process
        counter.requests += 1
        number = len(self.sent) + 1
        sent = Sent(
            number, current_call.get(), process, self.loop.time(), self.loop.true_wall(), method, path, body,
            permitted_at=permitted_at.get(), job=current_job.get(),
        )  # fmt: skip
        self.sent.append(sent)
        connection.current = sent
        if number >= self.most and self.on_excess is not None:
            self.on_excess()
        fault = counter.faults.get(counter.requests, _NO_FAULT)
        self.trace(
            f"-> {number} {sent.call} {method} {path} {body.decode()}"
            + (f"  [{fault.kind} {fault.delay:g}]" if fault is not _NO_FAULT else "")
        )
        rng = random.Random(self.scenario.seed * 1_000_003 + number)
        least, most = self.scenario.service.latency
        up, down = rng.uniform(least, most), rng.uniform(least, most)
        lag = rng.choice((0.0, rng.uniform(0, self.scenario.service.lag))) if self.scenario.service.lag else 0.0
        order = counter.requests
        if (hook := counter.on_request.get(order)) is not None:
            hook()
        arrive = functools.partial(self._arrive, connection, sent, fault, down, lag, counter, order)
        if fault.kind == "late":
            sent.on_over = functools.partial(self._later, fault.delay, arrive)
        else:
            self._later(up + fault.delay, arrive)

    def _later(self, seconds: float, happen: Callable[..., None], *arguments: Any) -> None:
        """Let something happen outside the client: also while the process that sends now is frozen."""
        self.loop.call_later(seconds, happen, *arguments, context=Context())

    def fail(self, seconds: float) -> None:
        """Break all connections, and let none be made for a while."""
        self.down_until = self.loop.time() + seconds
        for connection in list(self.open):
            connection.reset()

    def _arrive(
        self, connection: Connection, sent: Sent, fault: Fault, down: float, lag: float, counter: Process, order: int
    ) -> None:
        if fault.kind == "silent":
            return
        if fault.kind == "lost":
            connection.reset()
            return
        sent.arrived = self.loop.time()
        status, body, extra = fault.status, b"", ""
        if fault.kind == "page":
            status, body = 200, _PAGE
        elif fault.kind != "status":
            done, content = self.service.process(sent.method, sent.path, sent.body, sent.call, sent.number, lag)
            self.trace(f"   {sent.number} processed: {done}" + (f" (lag {lag:.2f})" if lag else ""))
            if fault.kind in ("mute", "late"):
                return
            if fault.kind != "status after":
                status, body = done, b"" if content is None else json.dumps(content).encode()
        if fault.retry_after is not None:
            extra = f"Retry-After: {fault.retry_after:g}\r\n"
        kind = "text/html" if fault.kind == "page" else "application/json"
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n{extra}"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._later(down, self._deliver, connection, sent, fault, head.encode() + body, counter, order)

    def _deliver(
        self, connection: Connection, sent: Sent, fault: Fault, data: bytes, counter: Process, order: int
    ) -> None:
        if connection.current is not sent or not connection.process.is_alive:
            return
        if (hook := counter.on_response.get(order)) is not None:
            hook()
        self.trace(f"<- {sent.number} {data.split(b' ', 2)[1].decode()}")
        connection.finish()
        sent.is_answered = fault.kind in ("slow", "close")
        if fault.kind == "reset":
            connection.reset()
        elif fault.kind == "cut":
            connection.receive(data[:-1] if not data.endswith(b"\r\n\r\n") else data[:-2])
            connection.reset()
        else:
            connection.receive(data)
            if fault.kind == "close":
                connection.close()

    @contextlib.contextmanager
    def connected(self) -> Generator[None]:
        """Let aiohttp connect to the service in memory."""
        network = self

        async def create_connection(connector: Any, request: Any, traces: object, timeout: Any) -> object:
            process = current_process.get() or network.process
            counter = network.process if process.is_worker else process
            counter.connects += 1
            number = counter.connects
            rng = random.Random(network.scenario.seed * 7_919 + counter.number * 1_009 + number)
            await asyncio.sleep(rng.uniform(*network.scenario.service.latency))
            is_down = network.loop.time() < network.down_until
            if is_down or counter.faults.get(-number) is not None or not process.is_alive:
                raise aiohttp.ClientConnectorError(request.connection_key, OSError(errno.ECONNREFUSED, "refused"))
            protocol = connector._factory()
            Connection(network, process, protocol)
            return protocol

        with mock.patch.object(aiohttp.TCPConnector, "_create_connection", create_connection):
            yield


class Connection(asyncio.Transport):
    """One connection, as aiohttp sees it."""

    def __init__(self, network: Network, process: Process, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("127.0.0.1", 80)})
        self.process = process
        self.current: Sent | None = None
        self._network = network
        self._protocol = protocol
        self._written = b""
        self._is_closing = False
        network.open[self] = None
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self._written += bytes(data)
        head, end, rest = self._written.partition(b"\r\n\r\n")
        if not end:
            return
        line, *headers = head.decode().split("\r\n")
        length = sum(int(value) for name, _, value in (each.partition(":") for each in headers)
                     if name.lower() == "content-length")  # fmt: skip
        if len(rest) < length:
            return
        self._written = rest[length:]
        method, path, _ = line.split(" ")
        self._network.submit(self, method, path, rest[:length])

    def finish(self) -> None:
        """The request in progress needs no response any more."""
        if self.current is not None:
            self.current.over = self._network.loop.time()
            if self.current.on_over is not None:
                self.current.on_over()
            self.current = None

    def receive(self, data: bytes) -> None:
        """Bytes arrive at the client."""
        if not self._is_closing:
            self._tell(self._protocol.data_received, data)

    def reset(self) -> None:
        """The connection breaks."""
        self._close(ConnectionResetError("reset"))

    def _close(self, error: Exception | None) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self.finish()
        self._network.open.pop(self, None)
        self._network.loop.call_soon(self._tell, self._protocol.connection_lost, error)

    def _tell(self, tell: Callable[[Any], None], argument: object) -> None:
        """Pass something to the client, or keep it until its process goes on."""
        if self.process.is_frozen:
            self.process.held.append(asyncio.Handle(tell, (argument,), self._network.loop, Context()))
        else:
            tell(argument)

    def close(self) -> None:
        self._close(None)

    def abort(self) -> None:
        self._close(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass
