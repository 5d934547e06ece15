"""The clients in comparison: this library, and what users write or generate instead.

Every subject opens its connections, sends a management key, edits slot 1 of group ``n`` and reads group ``n``.
"""

# The generated client has no types before it is generated, and type checkers do not know the pydantic aliases.
# mypy: disable-error-code="no-any-return"
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import abc
import asyncio
import concurrent.futures
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import aiohttp
import msgspec
from yarl import URL

from aiomutex import LocalRateLimiter, MutexSession
from benchmarks.harness import WrongResultError, in_flight
from benchmarks.server import KEY, UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from aiomutex.events import Hook

__all__ = ["EXPERIMENTS", "INDIVIDUALS", "Call", "Subject", "available"]

Call = Literal["edit", "get"]
EXPERIMENTS = [123, 456]
INDIVIDUALS = ["x@amplitude.com"]
HEADERS = {"Authorization": f"Bearer {KEY}"}
OPENAPI = Path(__file__).parents[1] / "aiomutex" / "emulator" / "openapi.json"
WIDEST = 256


class Subject(abc.ABC):
    """One way to call the service."""

    name: ClassVar[str]

    def __init__(self, url: str) -> None:
        self.url = url

    @abc.abstractmethod
    async def open(self) -> None:
        """Create the client. It connects with its first calls."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close what ``open`` made."""

    @abc.abstractmethod
    async def edit(self, number: int) -> object:
        """Write the lists of slot 1."""

    @abc.abstractmethod
    async def get(self, number: int) -> str:
        """Read a group and return its key."""

    async def spend(self, call: Call, count: int, width: int) -> tuple[float, float]:
        """Make ``count`` calls. Return wall and processor time, in seconds."""
        return await in_flight(self.edit if call == "edit" else self.get, count, width)


class Ours(Subject):
    """This library: limiter, retry, deadline and types on."""

    name = "aiomutex"
    per_second = UNLIMITED

    async def open(self) -> None:
        limiter = LocalRateLimiter(self.per_second, 10**9)
        self.session = MutexSession(
            KEY, base_url=self.url, rate_limiter=limiter, max_connections=WIDEST, on_attempt=self.hook()
        )
        await self.session.__aenter__()

    def hook(self) -> Hook | None:
        return None

    async def close(self) -> None:
        await self.session.aclose()

    async def edit(self, number: int) -> object:
        await self.session.edit_slot(number, 1, experiments=EXPERIMENTS, individuals=INDIVIDUALS)
        return None

    async def get(self, number: int) -> str:
        return (await self.session.get_group(number)).key


class Plain(Subject):
    """aiohttp and dictionaries, as most users write it."""

    name = "plain aiohttp"

    async def open(self) -> None:
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=WIDEST))

    async def close(self) -> None:
        await self.http.close()

    async def edit(self, number: int) -> object:
        address = f"{self.url}/api/1/mutexes/{number}/slots/1"
        lists = {"experiments": EXPERIMENTS, "individuals": INDIVIDUALS}
        async with self.http.patch(address, json=lists, headers=HEADERS) as response:
            response.raise_for_status()
            return await response.read()

    async def get(self, number: int) -> str:
        async with self.http.get(f"{self.url}/api/1/mutexes/{number}", headers=HEADERS) as response:
            response.raise_for_status()
            return (await response.json())["key"]


class WireGroup(msgspec.Struct):
    """The fields that a tuned client decodes."""

    id: int
    key: str
    name: str
    slots: list[dict[str, Any]]


class Tuned(Subject):
    """aiohttp with every public option that makes it faster, and msgspec; no limiter, no retries."""

    name = "tuned aiohttp + msgspec"

    async def open(self) -> None:
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(WireGroup).decode
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=WIDEST),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=HEADERS | {"Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        await self.http.close()

    async def edit(self, number: int) -> object:
        address = URL(f"{self.url}/api/1/mutexes/{number}/slots/1", encoded=True)
        body = self.encode({"experiments": EXPERIMENTS, "individuals": INDIVIDUALS})
        async with self.http.patch(address, data=body) as response:
            response.raise_for_status()
            return await response.read()

    async def get(self, number: int) -> str:
        async with self.http.get(URL(f"{self.url}/api/1/mutexes/{number}", encoded=True)) as response:
            response.raise_for_status()
            return self.decode(await response.read()).key


class Rust(Subject):
    """reqwest, which is written in Rust, and its JSON; no limiter, no retries, no types."""

    name = "pyreqwest (Rust)"

    async def open(self) -> None:
        from pyreqwest.client import ClientBuilder  # noqa: PLC0415  # in the extra

        builder = ClientBuilder().default_headers(HEADERS).error_for_status(True).max_connections(WIDEST)
        if trusted := os.environ.get("SSL_CERT_FILE"):
            builder = builder.add_root_certificate_pem(Path(trusted).read_bytes())  # noqa: ASYNC240  # before the measurement
        self.http = await builder.build().__aenter__()

    async def close(self) -> None:
        await self.http.close()

    async def edit(self, number: int) -> object:
        lists = {"experiments": EXPERIMENTS, "individuals": INDIVIDUALS}
        request = self.http.patch(f"{self.url}/api/1/mutexes/{number}/slots/1").body_json(lists).build()
        return await (await request.send()).bytes()

    async def get(self, number: int) -> str:
        request = self.http.get(f"{self.url}/api/1/mutexes/{number}").build()
        return (await (await request.send()).json())["key"]


class Httpx(Subject):
    """httpx and pydantic models."""

    name = "httpx + pydantic"

    async def open(self) -> None:
        import httpx  # noqa: PLC0415  # in the extra
        import pydantic  # noqa: PLC0415

        class Slot(pydantic.BaseModel):
            index: int
            percentage: int
            experiments: list[int] = []
            holdouts: list[int] = []
            individuals: list[str] = []

        class Group(pydantic.BaseModel):
            id: int
            key: str
            name: str
            slots: list[Slot]

        class Edit(pydantic.BaseModel):
            experiments: list[int] | None = None
            holdouts: list[int] | None = None
            individuals: list[str] | None = None

        # pydantic cannot resolve the names of classes that are local to a function.
        Group.model_rebuild(_types_namespace={"Slot": Slot})
        self.group: Any = Group
        self.edited: Any = Edit
        limits = httpx.Limits(max_connections=WIDEST, max_keepalive_connections=WIDEST)
        self.http = httpx.AsyncClient(base_url=self.url, headers=HEADERS, limits=limits, timeout=60)

    async def close(self) -> None:
        await self.http.aclose()

    async def edit(self, number: int) -> object:
        lists = self.edited(experiments=EXPERIMENTS, individuals=INDIVIDUALS)
        body = lists.model_dump_json(exclude_none=True)
        headers = {"Content-Type": "application/json"}
        response = await self.http.patch(f"/api/1/mutexes/{number}/slots/1", content=body, headers=headers)
        return response.raise_for_status().content

    async def get(self, number: int) -> str:
        response = await self.http.get(f"/api/1/mutexes/{number}")
        return self.group.model_validate_json(response.raise_for_status().content).key


class Generated(Subject):
    """The client that openapi-python-client generates from the contract; on httpx and attrs."""

    name = "openapi-python-client"
    _folder: ClassVar[tempfile.TemporaryDirectory[str] | None] = None

    @classmethod
    def generated(cls) -> ModuleType:
        """Return the generated package, which is generated once per process."""
        if cls._folder is None:
            program = shutil.which("openapi-python-client", path=str(Path(sys.executable).parent))
            if program is None:
                raise ImportError("openapi-python-client is not installed", name="openapi-python-client")
            folder = tempfile.TemporaryDirectory(prefix="generated-")
            target = Path(folder.name) / "generated_mutexes"
            arguments = ["generate", "--path", str(OPENAPI), "--meta", "none", "--output-path", str(target)]
            done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
            if not (target / "client.py").exists():
                folder.cleanup()
                raise WrongResultError(f"openapi-python-client generated nothing: {done.stdout}{done.stderr}")
            # Version 0.29 omits a space after an optional constant.
            for source in target.rglob("*.py"):
                text = source.read_text("utf-8")
                source.write_text(text.replace("Falseand ", "False and ").replace("Trueand ", "True and "), "utf-8")
            sys.path.insert(0, folder.name)
            cls._folder = folder
        return importlib.import_module("generated_mutexes")

    async def open(self) -> None:
        import httpx  # noqa: PLC0415  # in the extra

        package = self.generated()
        calls = f"{package.__name__}.api.mutex_groups"
        self._read: Any = importlib.import_module(f"{calls}.get_mutex").asyncio
        self._write: Any = importlib.import_module(f"{calls}.edit_mutex_slot").asyncio_detailed
        self._lists: Any = importlib.import_module(f"{package.__name__}.models").SlotEdit
        limits = httpx.Limits(max_connections=WIDEST, max_keepalive_connections=WIDEST)
        self._client: Any = package.AuthenticatedClient(
            base_url=self.url, token=KEY, timeout=httpx.Timeout(60), httpx_args={"limits": limits}
        )

    async def close(self) -> None:
        await self._client.get_async_httpx_client().aclose()

    async def edit(self, number: int) -> object:
        lists = self._lists(experiments=EXPERIMENTS, individuals=INDIVIDUALS)
        response = await self._write(str(number), 1, client=self._client, body=lists)
        if response.status_code != 200:
            raise WrongResultError(f"response status {response.status_code}")
        return response.parsed

    async def get(self, number: int) -> str:
        return (await self._read(str(number), client=self._client)).key


class Threads(Subject):
    """requests, with one session per thread."""

    name = "requests, threads"

    async def open(self) -> None:
        import requests  # noqa: PLC0415  # in the extra

        self._local = threading.local()
        self._make = requests.Session

    async def close(self) -> None:
        """Sessions end with their threads."""

    def _session(self) -> Any:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = self._make()
            session.headers.update(HEADERS)
        return session

    def edit_now(self, number: int) -> object:
        lists = {"experiments": EXPERIMENTS, "individuals": INDIVIDUALS}
        response = self._session().patch(f"{self.url}/api/1/mutexes/{number}/slots/1", json=lists, timeout=60)
        response.raise_for_status()
        return response.content

    def get_now(self, number: int) -> str:
        response = self._session().get(f"{self.url}/api/1/mutexes/{number}", timeout=60)
        response.raise_for_status()
        return response.json()["key"]

    async def edit(self, number: int) -> object:
        return await asyncio.to_thread(self.edit_now, number)

    async def get(self, number: int) -> str:
        return await asyncio.to_thread(self.get_now, number)

    async def spend(self, call: Call, count: int, width: int) -> tuple[float, float]:
        work: Callable[[int], object] = self.edit_now if call == "edit" else self.get_now
        start, cpu = time.perf_counter(), time.process_time()
        with concurrent.futures.ThreadPoolExecutor(width) as pool:
            for _ in pool.map(work, range(count)):
                pass
        return time.perf_counter() - start, time.process_time() - cpu


def available(url: str) -> tuple[list[Subject], str]:
    """Return the subjects whose packages are installed, and describe the missing ones."""
    subjects: list[Subject] = [Ours(url), Plain(url), Tuned(url)]
    missing: list[str] = []
    others = ((Rust, "pyreqwest"), (Httpx, "httpx"), (Generated, "openapi_python_client"), (Threads, "requests"))
    for subject, package in others:
        if importlib.util.find_spec(package):
            subjects.append(subject(url))
        else:
            missing.append(package.replace("_", "-"))
    return subjects, f"not installed: {', '.join(missing)}" if missing else ""
