"""Without one of aiohttp's internals, a session says so once and keeps its promises with documented aiohttp only.

The copies of aiohttp are as a future version may be: an internal has another name or signature, and all else works.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from aiohttp import client_proto
from support import http, session_for

from aiomutex._http import internals
from aiomutex._http.internals import INTERNALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support import RawServer

ROOT = Path(__file__).parents[2]
ALTERED = "altered" in Path(aiohttp.__file__).parts


class Edit(NamedTuple):
    """Replace ``pattern`` in the modules that match ``files``."""

    pattern: str
    replacement: str
    files: str = "*.py"


def renamed(name: str) -> tuple[Edit, ...]:
    return (Edit(rf"\b{name}\b", f"{name}_by_another_name"),)


def another_parameter(file: str, definition: str) -> tuple[Edit, ...]:
    """Give a method one more parameter, which aiohttp never passes."""
    return (Edit(rf"({definition}[^)]*?),?\s*\)(?= ->)", r"\1, more: object = None)", file),)


EDITS: dict[str, tuple[Edit, ...]] = {
    "connector.TCPConnector.connect": another_parameter("connector.py", r"async def connect\(\s*self, req"),
    "connector.TCPConnector._factory": renamed("_factory"),
    "connector.Connection.protocol": (
        Edit(r"def protocol\(self", "def handler(self", "connector.py"),
        Edit(r"(conn|connection)\.protocol\b", r"\1.handler", "client*.py"),
    ),
    "client_proto.ResponseHandler.__init__": another_parameter("client_proto.py", r"def __init__\(self, loop"),
    "client_proto.ResponseHandler.is_connected": renamed("is_connected"),
    "client_proto.ResponseHandler.connection_lost": another_parameter("client_proto.py", r"def connection_lost\(self"),
    "client_proto.ResponseHandler.data_received": another_parameter("client_proto.py", r"def data_received\(self"),
    "client_proto.ResponseHandler._payload": renamed("_payload"),
    "client_proto.ResponseHandler._waiter": renamed("_waiter"),
    "client_proto.ResponseHandler._buffer": renamed("_buffer"),
    "http.RawResponseMessage.code": (
        Edit(r"    code: int(?=\n    reason)", "    status: int", "http_parser.py"),
        Edit(r"\bmessage\.code\b", "message.status", "client*.py"),
    ),
    "client_proto.ResponseHandler.close": another_parameter("client_proto.py", r"def close\(self"),
    "client_proto.ResponseHandler.force_close": another_parameter("client_proto.py", r"def force_close\(self"),
    "client_proto.ResponseHandler.set_response_params": renamed("set_response_params"),
    "client_proto.ResponseHandler.read": (
        Edit(r"async def read(?=\(self\) -> _T:)", "async def read_message", "streams.py"),
        Edit(r"\bprotocol\.read\(\)", "protocol.read_message()", "client_reqrep.py"),
    ),
    "http.RawResponseMessage.headers": (
        Edit(
            r"(class RawResponseMessage\(NamedTuple\):\n(?:    .*\n)*?)    headers:", r"\1    fields:", "http_parser.py"
        ),
        Edit(r"\bmsg\.headers\b", "msg[3]", "http_parser.py"),
        Edit(r"(?<== )message\.headers\b", "message.fields", "client_reqrep.py"),
    ),
    "http.HttpProcessingError.code": renamed("HttpProcessingError"),
    "streams.StreamReader.on_eof": renamed("on_eof"),
    "client_reqrep.ClientRequest.__init__": (
        Edit(
            r"(?s)(class ClientRequest:.*?def __init__\(\s*self,\s*)method: str,(.*?\n    \):\n)",
            r"\1verb: str,\2        method = verb\n",
            "client_reqrep.py",
        ),
    ),
    "client.ClientSession._request": renamed("_request"),
    "http.StreamWriter.__init__": (Edit(r"\bloop\b", "event_loop", "http_writer.py"),),
    "http.StreamWriter.write_headers": renamed("write_headers"),
    "http.StreamWriter.write_eof": another_parameter("http_writer.py", r"async def write_eof\(self"),
    "client.ClientSession._default_proxy": renamed("_default_proxy"),
}


def alter(directory: Path, path: str) -> None:
    """Change the copy of aiohttp in ``directory`` so that it lacks the internal at ``path``."""
    for pattern, replacement, files in EDITS[path]:
        changed = 0
        for file in directory.glob(files):
            text, count = re.subn(pattern, replacement, file.read_text(encoding="utf-8"))
            if count:
                file.write_text(text, encoding="utf-8")
                changed += count
        assert changed, f"this aiohttp has no {pattern!r} in {files}"


def run_without(missing: Sequence[str], directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a copy of the installed aiohttp in which the internals at these paths are missing."""
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    if missing:
        copy = shutil.copytree(Path(aiohttp.__file__).parent, directory / "altered" / "aiohttp")
        paths.insert(0, str(copy.parent))
        for path in missing:
            alter(copy, path)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if any(path.startswith("http.RawResponseMessage.") for path in missing):
        environment["AIOHTTP_NO_EXTENSIONS"] = "1"  # the class is written in C otherwise
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300
    )


@pytest.mark.skipif(ALTERED, reason="this aiohttp lacks an internal")
def test_the_installed_aiohttp_has_every_internal() -> None:
    assert internals.MISSING == ()


def test_each_internal_is_taken_away_by_a_test_and_has_a_purpose() -> None:
    paths = [internal.path for internal in INTERNALS]
    assert len(set(paths)) == len(paths)
    assert set(paths) == set(EDITS)
    assert all(internal.purpose for internal in INTERNALS)


def test_a_class_that_is_gone_is_found_missing_with_all_its_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(client_proto, "ResponseHandler")
    handler = [internal.path for internal in INTERNALS if ".ResponseHandler." in internal.path]
    assert set(handler) <= set(internals.find_missing())


def test_with_every_internal_there_is_no_warning(tmp_path: Path) -> None:
    done = run_without((), tmp_path, "tests/_http/without_internal.py")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.skipif(ALTERED, reason="this aiohttp lacks an internal")
async def test_with_every_internal_only_large_bodies_are_sent_by_aiohttps_session(
    raw: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_session: list[str] = []
    original = aiohttp.ClientSession.request

    def request(inner: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> Any:
        by_session.append(method)
        return original(inner, method, url, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "request", request)
    raw.answer(http())
    async with session_for(raw.url) as session:
        await session.edit_slot("1", 1, experiments=[7])
        await session.edit_slot("1", 1, individuals=["x" * 10_000] * 100)
        assert by_session == []
        await session.edit_slot("1", 1, individuals=["x" * 10_000] * 200)
        assert by_session == ["PATCH"]


REPRESENTATIVES = (
    "connector.TCPConnector.connect",
    "client_proto.ResponseHandler._waiter",
    "client_reqrep.ClientRequest.__init__",
)


@pytest.mark.parametrize(
    "path", [path if path in REPRESENTATIVES else pytest.param(path, marks=pytest.mark.deep) for path in EDITS]
)
def test_without_an_internal_one_warning_names_it_and_the_promises_are_kept(path: str, tmp_path: Path) -> None:
    done = run_without((path,), tmp_path, "tests/_http/without_internal.py")
    assert done.returncode == 0, done.stderr
    (warning,) = done.stdout.splitlines()
    assert warning.startswith(f"RuntimeWarning: aiohttp {aiohttp.__version__} lacks internals that aiomutex uses")
    assert f"another signature: {path}. Sessions use documented aiohttp only" in warning


def test_without_all_internals_the_warning_names_each(tmp_path: Path) -> None:
    done = run_without([*EDITS], tmp_path, "tests/_http/without_internal.py")
    assert done.returncode == 0, done.stderr
    (warning,) = done.stdout.splitlines()
    assert set(EDITS) == set(re.findall(r"\b\w+\.\w+\.\w+\b", warning)) & set(EDITS)


# Whichever name is missing, the same fallback is used. So the tests of the core run once, without a name of each class.
TESTS = ["tests/_http", "tests/test_session.py", "tests/test_laws.py", "--ignore=tests/_http/test_internals.py"]


@pytest.mark.deep
def test_without_internals_the_tests_of_the_core_pass(tmp_path: Path) -> None:
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore:aiohttp:RuntimeWarning"]
    done = run_without(REPRESENTATIVES, tmp_path, "-m", "pytest", *options, *TESTS)
    assert done.returncode == 0, done.stdout
