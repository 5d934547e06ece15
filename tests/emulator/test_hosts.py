"""A web page cannot reach the emulator under a name of its own (DNS rebinding), or read it, or write to it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from http.client import HTTPConnection
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from aiomutex.emulator import MutexEmulator
from aiomutex.emulator.listener import allowed_hosts, host_of

from .helpers import PATH, Api

if TYPE_CHECKING:
    from .conftest import Start

LOOPBACK = [
    *("localhost", "LocalHost", "localhost:80", "localhost:", "127.0.0.1", "127.0.0.1:8080", "127.255.255.254"),
    *("[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]"),
]
FOREIGN = [
    *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost"),
    *("localhost@evil.example", "evil.example/localhost", "localhost evil.example", "localhost, evil.example"),
    *("0.0.0.0", "128.0.0.1", "126.255.255.255", "192.168.1.5", "2130706433", "0x7f000001", "127.1", "127.0.0.01"),
    *("[::]", "[::2]", "[::ffff:127.0.0.1]", "::1", "[::1", "[localhost]", "localhost:80:80", "localhost:x", "*", ""),
]
REQUESTS: list[tuple[str, str, Any]] = [
    ("GET", PATH, None),
    ("PATCH", f"{PATH}/1/slots/1", {"experiments": [7]}),
    ("POST", PATH, {"projectId": 1, "name": "n", "slots": [{"percentage": 100}]}),
    ("OPTIONS", PATH, None),
    *(("GET", path, None) for path in ("/", "/status.json", "/openapi.json", "/openapi.yaml", "/own", "/nowhere")),
]


async def own(_: web.BaseRequest) -> web.Response:
    return web.Response(text="own page")


@pytest.mark.parametrize("host", FOREIGN)
async def test_a_foreign_host_reaches_nothing(start: Start, host: str) -> None:
    api = await start(groups=1, cors_origin="*", faults=["503:50%"])
    api.emulator.pages["/own"] = own
    for method, path, body in REQUESTS:
        reply = await api.send(method, path, json=body, headers={"Host": host})
        assert reply.status == 421, (method, path)
        assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
        assert reply.json["status"] == 421
        assert repr(host) in reply.json["message"]
        assert "--allow-host" in reply.json["message"]
        assert "Access-Control-Allow-Origin" not in reply.headers
    assert not api.emulator.commits
    assert (len(api.emulator.requests), api.emulator.busiest_second()) == (0, 0)


@pytest.mark.parametrize("host", LOOPBACK)
async def test_a_loopback_host_reaches_everything(start: Start, host: str) -> None:
    api = await start(groups=1, cors_origin="*")
    api.emulator.pages["/own"] = own
    statuses = [
        (await api.send(method, path, json=body, headers={"Host": host})).status for method, path, body in REQUESTS
    ]
    assert statuses == [200, 200, 200, 204, 200, 200, 200, 200, 200, 404]


async def test_allow_hosts_adds_names(start: Start) -> None:
    api = await start(groups=1, allow_hosts=["Emulator", "api.test:8080", "10.0.0.7", "fe80::1", "[fe80::0002]"])
    allowed = ["emulator:9000", "EMULATOR", "api.test", "10.0.0.7:1", "[fe80::1]", "[fe80:0::2]:80", "localhost"]
    for host in [*allowed, "emulator.evil.example", "x.emulator", "api.test.", "10.0.0.8", "[fe80::3]"]:
        reply = await api.send("GET", PATH, headers={"Host": host})
        assert reply.status == (200 if host in allowed else 421), host


@pytest.mark.parametrize("name", ["", "*", "http://emulator", "emulator/x", "user@emulator", "a b", "[::1", "a:b"])
def test_an_invalid_allowed_host_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"^allow_hosts must be host names such as 'emulator', not "):
        MutexEmulator(allow_hosts=[name])
    with pytest.raises(ValueError, match="allow_hosts must be a list of host names, not 'emulator'"):
        MutexEmulator(allow_hosts="emulator")


async def test_the_address_it_listens_on_is_allowed(start: Start) -> None:
    api = await start(groups=1, host="0.0.0.0")  # the test is about it
    assert [
        (await api.send("GET", PATH, headers={"Host": host})).status
        for host in ("0.0.0.0:80", "127.0.0.1", "evil.example")
    ] == [200, 200, 421]
    async with Api(MutexEmulator(groups=1, host="localhost")) as api:
        assert (await api.list()).status == 200
    assert allowed_hosts("", []) == {"localhost"}


@pytest.mark.parametrize("lines", [b"", b"Host:\r\n", b"Host: localhost\r\nHost: evil.example\r\n"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_request_without_exactly_one_host_is_rejected(start: Start, lines: bytes, version: bytes) -> None:
    api = await start(groups=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.emulator.port)
    writer.write(b"GET /status.json HTTP/%b\r\n%bConnection: close\r\n\r\n" % (version, lines))
    status = (await reader.read()).split()[1]
    writer.close()
    assert status in (b"421", b"400")


hosts = st.one_of(
    st.text(st.characters(codec="ascii", exclude_characters="\r\n\0"), max_size=20),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.sampled_from(LOOPBACK + FOREIGN),
    st.tuples(st.sampled_from(LOOPBACK + FOREIGN), st.sampled_from([".", "@", ":80", "%", "/", " ", "a"])).map("".join),
)


@given(hosts)
@example("127.0.0.1\n")
def test_no_other_host_is_allowed(host: str) -> None:
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    name, port = (name, port) if colon else (host, "")
    try:
        address = IPv6Address(name[1:-1]) if name[:1] == "[" and name[-1:] == "]" else IPv4Address(name)
        loopback = address.is_loopback and (address.version == 4 or int(address) == 1)
    except ValueError:
        loopback = name.lower() == "localhost"
    valid_port = all(character in "0123456789" for character in port)
    assert (host_of(host) == "localhost") == (loopback and valid_port)


async def test_a_page_of_another_origin_can_only_send_what_is_rejected(start: Start) -> None:
    """Without CORS, a page can send only requests without a key and JSON, and it can embed no page and no data."""
    api = await start(groups=1)
    origin = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        for method in ("POST", "GET"):
            headers = {**origin, "Content-Type": content_type}
            assert (await api.send(method, PATH, key=None, data=b"{}", headers=headers)).status == 401
        headers = {**origin, "Content-Type": content_type}
        assert (await api.send("POST", PATH, data=b'{"projectId": 1}', headers=headers)).status == 400
    assert not api.emulator.commits
    preflight = await api.send("OPTIONS", PATH, key=None, headers={**origin, "Access-Control-Request-Method": "PATCH"})
    assert preflight.status == 401
    for path in api.emulator.pages:
        for query in ("", "?callback=steal", "?jsonp=steal&q=<script>"):
            page = await api.send("GET", path + query, key=None, headers=origin)
            assert "steal" not in page.text
            assert not [name for name in page.headers if name.lower().startswith("access-control-")]
            assert page.headers["X-Content-Type-Options"] == "nosniff"
            assert page.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


def test_the_command_takes_allowed_hosts() -> None:
    words = ["emulator", "--port", "0", "--allow-host", "one.test", "--allow-host", "two.test", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "aiomutex", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        listening = re.search(r"http://([0-9.]+):([0-9]+) ", process.stdout.readline())
        assert listening is not None
        for host, status in (("one.test", 200), ("two.test", 200), ("three.test", 421)):
            connection = HTTPConnection(listening[1], int(listening[2]))
            connection.request("GET", "/", headers={"Host": host})
            assert connection.getresponse().status == status
            connection.close()
    finally:
        process.kill()
        process.communicate()


async def test_cors_opens_the_api_and_not_the_pages(start: Start) -> None:
    api = await start(groups=1, cors_origin="*")
    assert (await api.list()).headers["Access-Control-Allow-Origin"] == "*"
    for path in api.emulator.pages:
        assert "Access-Control-Allow-Origin" not in (await api.send("GET", path)).headers
