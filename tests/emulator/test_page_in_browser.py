"""The page in headless Chromium, over the DevTools protocol.

``AIOMUTEX_SCREENSHOTS`` is a directory for screenshots.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import re
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from aiomutex.emulator import Dialect, MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.deep

EVIL = '<img src=x onerror="document.title=`injected`"><b>bold</b>'
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
]
TIMEOUT = 60.0


class Browser:
    """One tab of Chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.requested: list[str] = []
        self.errors: list[str] = []

    async def call(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=TIMEOUT)
            if message.get("method") == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(str(message["params"]))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def run(self, script: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.getElementById('state')?.textContent === 'live'")

    async def until(self, script: str) -> None:
        """Wait until ``script`` is true."""
        async with asyncio.timeout(TIMEOUT):
            while not await self.run(script):  # noqa: ASYNC110  # the page is in another process
                await asyncio.sleep(0.05)

    async def screenshot(self, name: str) -> bytes:
        shot = base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
        save(name, shot)
        return shot

    async def resize(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )


def save(name: str, shot: bytes) -> None:
    folder = os.environ.get("AIOMUTEX_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(shot)


@asynccontextmanager
async def browser(folder: Path) -> AsyncGenerator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("Chromium is not installed: apt-get install -y chromium")
    devnull = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        chromium, *FLAGS, f"--user-data-dir={folder}", "about:blank", stdout=devnull, stderr=devnull
    )
    try:
        async with aiohttp.ClientSession() as http:
            port = await port_of(folder)
            async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
                tab = next(each for each in await response.json() if each["type"] == "page")
            async with http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab_browser = Browser(socket)
                for domain in ("Page", "Network", "Runtime", "Log"):
                    await tab_browser.call(f"{domain}.enable")
                yield tab_browser
    finally:
        process.terminate()
        await process.wait()


async def port_of(folder: Path) -> str:
    """The port that Chromium listens on, which it writes to a file."""
    file = folder / "DevToolsActivePort"
    async with asyncio.timeout(TIMEOUT):
        while not (file.exists() and file.read_text()):  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.05)
    return file.read_text().split()[0]


def seeds() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {"name": "Checkout button", "slots": [50, 50]},
        {"name": "Pricing page", "slots": [40, 35, 25]},
        {"name": "Onboarding flow", "slots": [95, 5]},
        {"name": "Search ranking", "slots": [10] * 10, "deleted": True},
        {"name": f"Paywall {EVIL}", "key": f"paywall{EVIL}", "slots": [30, 30, 20]},
        {"name": "Push timing", "slots": [25] * 4, "evaluationMode": "local"},
        {"name": "Home feed", "slots": [100]},
        *({"name": f"Archive of experiments {number}", "slots": [5] * 20} for number in range(8, 1201)),
    ]
    for number, group in enumerate(groups, 1):
        group.setdefault("key", group["name"].lower().replace(" ", "-"))
        group["id"] = number
        group["slots"] = [
            {
                "percentage": share,
                "experiments": [number * 100 + place] * ((number + place) % 3 != 0),
                "holdouts": [7] * (place == 2),
                "individuals": ["ada"] * (place % 3),
            }
            for place, share in enumerate(group["slots"], 1)
        ]
    return groups


@asynccontextmanager
async def traffic(url: str) -> AsyncGenerator[None]:
    """Send requests until the block ends."""

    async def send_requests() -> None:
        async with aiohttp.ClientSession(headers={"Authorization": "Bearer any"}) as http:
            for number in itertools.count():
                for path in ("/api/1/mutexes?limit=3", f"/api/1/mutexes/{number % 9 + 1}", "/api/1/mutexes/none"):
                    async with http.get(url + path) as response:
                        await response.read()
                await asyncio.sleep(0.02 + 0.03 * (number % 40 > 20))

    task = asyncio.create_task(send_requests())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_page_updates_while_requests_arrive(tmp_path: Path) -> None:
    dialect = Dialect(ids="string", slot_patch="merge")
    async with (
        MutexEmulator(groups=seeds(), used_today=63_412, dialect=dialect) as emulator,
        browser(tmp_path) as page,
        traffic(emulator.url),
    ):
        await page.resize(1400, 1000)
        await page.open(emulator.url)
        await page.until("+document.getElementById('rate').textContent > 20")
        await page.until("document.querySelectorAll('.group').length === 25")
        assert await page.run("document.querySelector('.group h3').textContent") == "Checkout button"
        assert await page.run("document.querySelectorAll('.group')[1].querySelectorAll('.bar span').length") == 3
        assert await page.run("document.getElementById('place').textContent") == "1–25 of 1,200"  # noqa: RUF001
        widths = await page.run("[...document.querySelectorAll('.group')[1].querySelector('.bar').children]"
                                ".map(part => part.getBoundingClientRect().width)")  # fmt: skip
        assert [round(100 * width / sum(widths)) for width in widths] == [40, 35, 25]

        # Names are inserted as text.
        assert (
            await page.run("document.querySelectorAll('.group')[4].querySelector('h3').textContent")
            == f"Paywall {EVIL}"
        )
        assert await page.run("document.querySelectorAll('.group b, .group img').length") == 0
        assert await page.run("document.title") == "aiomutex emulator"

        # It updates without a reload.
        emulator.groups["1"].name = "Checkout, renamed"
        await page.until("document.querySelector('.group h3').textContent === 'Checkout, renamed'")
        left = "+document.getElementById('left').textContent.replace(',', '')"
        before = await page.run(left)
        await page.until(f"{left} < {before}")
        await page.until("rates.length > 6")

        # Each request has its time in UTC and its duration.
        first = await page.run("document.querySelector('.requests li').innerText.split('\\n')")
        assert first[0] == "GET"
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d\d\d", first[-2])
        assert re.fullmatch(r"[0-9.]+ ms", first[-1])

        light = await page.screenshot("page-light")
        await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert await page.run("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 28)"
        dark = await page.screenshot("page-dark")
        await page.resize(420, 1400)
        assert await page.run("document.documentElement.scrollWidth") == 420, "no horizontal scrolling on a phone"
        narrow = await page.screenshot("page-narrow")
        assert len({light, dark, narrow}) == 3
        assert all(shot.startswith(b"\x89PNG") and len(shot) > 20_000 for shot in (light, dark, narrow))

        assert page.errors == []
        assert {
            url.partition("/status.json")[0].rstrip("/") for url in page.requested if not url.startswith("data:")
        } == {emulator.url}


async def test_many_groups_can_be_paged_and_searched(tmp_path: Path) -> None:
    async with MutexEmulator(groups=seeds(), limits=False) as emulator, browser(tmp_path) as page:
        emulator.groups["7"].slots[0].individuals += [*map(str, range(50)), "grace@example.com"]
        await page.open(emulator.url)
        await page.until("document.querySelectorAll('.group').length === 25")
        assert await page.run("document.getElementById('previous').disabled") is True
        await page.run("document.getElementById('next').click()")
        await page.until("document.getElementById('place').textContent.startsWith('26')")
        await page.run("search.value = 'pricing'; search.dispatchEvent(new Event('input'))")
        await page.until("document.querySelectorAll('.group').length === 1")
        assert await page.run("document.querySelector('.group .mono').textContent") == "pricing-page"
        for text, group, pill in (
            ("1202", "Archive of experiments 12", "1202"),
            ("Grace", "Home feed", "grace@example.com"),
        ):
            await page.run(f"search.value = '{text}'; search.dispatchEvent(new Event('input'))")
            await page.until("document.querySelectorAll('.group').length === 1")
            await page.until(f"document.querySelector('.group h3').textContent === '{group}'")
            assert await page.run("[...document.querySelectorAll('.found')].map(each => each.textContent)") == [pill]
        await page.run("search.value = 'no such group'; search.dispatchEvent(new Event('input'))")
        await page.until("document.getElementById('groups').textContent === 'No group matches.'")

        # Bars have a text alternative, and every control has a name.
        await page.run("search.value = 'pricing'; search.dispatchEvent(new Event('input'))")
        await page.until("document.querySelectorAll('.bar').length === 1")
        label = await page.run("document.querySelector('.bar').getAttribute('aria-label')")
        assert label.startswith("Slot 1: 40 %")
        nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
        controls = [
            node for node in nodes if node.get("role", {}).get("value") in ("button", "searchbox", "link", "meter")
        ]
        assert len(controls) >= 7
        assert all(node["name"]["value"] for node in controls)
        assert page.errors == []


async def test_the_page_shows_that_the_emulator_stopped(tmp_path: Path) -> None:
    async with browser(tmp_path) as page:
        async with MutexEmulator(groups=3) as emulator:
            await page.open(emulator.url)
        await page.until("document.getElementById('state').textContent === 'no connection to the emulator'")
        assert await page.run("document.querySelectorAll('.group').length") == 3
