"""The page of ``slots bulk --report``: what it holds, and how it behaves in headless Chromium.

``AIOMUTEX_SCREENSHOTS`` is a directory for screenshots.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from emulator.test_page_in_browser import browser

from aiomutex.cli.run_report import RunReport

if TYPE_CHECKING:
    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator

EVIL = '</script><script>document.title = "injected"</script><!--<img src=x onerror="document.title=`injected`">'


def data_of(path: str | Path) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', Path(path).read_text(), re.DOTALL)
    assert "<" not in text
    return json.loads(text)


def counts_of(data: Any) -> dict[str, int]:
    return {status: count for status, count in data["counts"].items() if count}


def total(data: Any, what: str) -> int:
    return sum(counts.get(what, 0) for _, counts in data["points"])


@pytest.fixture
def edits(tmp_path: Path) -> str:
    """A file with four edits, of which two fail: one is stale, and the other one's group does not exist."""
    lines: list[dict[str, Any]] = [
        {"group_id": "1", "slot_index": 1, "experiments": [5]},
        {"group_id": "2", "slot_index": 1, "individuals": ["bob"], "expected": {"individuals": [EVIL]}},
        {"group_id": "99", "slot_index": 1, "experiments": [5]},
        {"group_id": "3", "slot_index": 1, "add_experiments": [5]},
    ]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "e.jsonl"


def test_a_page_shows_a_run_and_how_to_undo_it(
    edits: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    words = ("slots", "bulk", edits, "--journal", "a run.db", "--failures", "failed.jsonl", "--report", "run.html")
    assert aiomutex(*words).exit_code == 1
    data = data_of("run.html")
    assert (tmp_path / "run.html").stat().st_mode & 0o777 == 0o600
    assert data["title"] == "Edits of e.jsonl"
    assert counts_of(data) == {"applied": 2, "failed": 2}
    assert (total(data, "applied"), total(data, "failed")) == (2, 2)
    assert total(data, "requests") == len(service.requests)
    assert [failure[:2] for failure in sorted(data["failures"])] == [["line 2", "failed"], ["line 3", "failed"]]
    assert EVIL in min(data["failures"])[2].replace('\\"', '"')
    assert dict(data["kinds"]) == {"StaleSlotError": 1, "NotFoundError": 1}
    assert (data["journal"], data["failures_file"]) == ("a run.db", "failed.jsonl")
    assert (data["limit"], data["stopped_by"]) == (97, None)
    assert aiomutex("slots", "bulk", "--undo", "a run.db", "--report", "run.html").exit_code == 0
    data = data_of("run.html")
    assert (data["title"], counts_of(data), data["failures"]) == ("Undo of a run.db", {"applied": 2}, [])


def test_invalid_lines_of_a_pipe_are_failures(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    stdin = '{"group_id": 1, "slot_index": 1, "experiments": [5]}\nno json\n'
    assert aiomutex("slots", "bulk", "-", "--report", "run.html", stdin=stdin).exit_code == 1
    data = data_of("run.html")
    assert counts_of(data) == {"applied": 1, "failed": 1}
    assert [failure[:2] for failure in data["failures"]] == [["line 2", "failed"]]
    assert data["journal"] is None


def test_a_page_is_written_if_the_run_is_stopped(service: MutexEmulator, tmp_path: Path) -> None:
    service.latency = 0.05
    lines = (
        json.dumps({"group_id": 1 + number % 5, "slot_index": 1, "experiments": [number]}) for number in range(2000)
    )
    (tmp_path / "e.jsonl").write_text("\n".join(lines))
    words = ["-m", "aiomutex", "slots", "bulk", "e.jsonl", "--journal", "run.db", "--report", "run.html"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(service.commits) < 20:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    data = data_of("run.html")
    counts = counts_of(data)
    assert counts == {"applied": len(service.commits), "never tried": 2000 - len(service.commits)}
    assert (data["stopped_by"], data["total"]) == ("SIGINT", 2000)
    assert data["resume"] == "To resume, run the same command again: run.db holds the progress."


def test_a_page_is_written_if_the_run_fails(
    edits: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    (tmp_path / "other.jsonl").write_text('{"group_id": 5, "slot_index": 1, "experiments": [5]}')
    assert aiomutex("slots", "bulk", "other.jsonl", "--journal", "run.db").exit_code == 0
    done = aiomutex("slots", "bulk", edits, "--journal", "run.db", "--report", "run.html")
    assert done.exit_code == 2
    data = data_of("run.html")
    assert data["stopped_by"] == done.stderr.removeprefix("aiomutex: ").rstrip()
    assert "belongs to a different input" in data["stopped_by"]
    assert counts_of(data) == {}


@pytest.mark.parametrize("report", ["e.jsonl", "failed.jsonl", "run.db-wal"])
def test_a_page_never_replaces_another_file_of_the_run(
    report: str, edits: str, service: MutexEmulator, aiomutex: Aiomutex, tmp_path: Path
) -> None:
    before = (tmp_path / edits).read_text()
    words = ("slots", "bulk", edits, "--journal", "run.db", "--failures", "failed.jsonl", "--report", report)
    done = aiomutex(*words)
    assert done.exit_code == 2
    assert "choose another name" in done.stderr
    assert (tmp_path / edits).read_text() == before
    assert not service.requests


def test_a_page_that_cannot_be_written_fails_before_the_run(
    edits: str, service: MutexEmulator, aiomutex: Aiomutex
) -> None:
    done = aiomutex("slots", "bulk", edits, "--report", "no such directory/run.html")
    assert (done.exit_code, done.stderr) == (1, "aiomutex: no such directory/run.html: No such file or directory\n")
    assert not service.requests


def test_a_run_of_any_length_is_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = [0.0]
    monkeypatch.setattr("aiomutex.cli.run_report.time", SimpleNamespace(monotonic=lambda: clock[0]))
    tracemalloc.start()
    with RunReport(str(tmp_path / "run.html"), title="t", counts={}, total=None, limit=97) as page:
        for number in range(100_000):
            clock[0] += 0.125
            page.count("requests")
            page.count("failed" if number % 2 else "applied")
            if number % 2:
                page.fail(f"line {number}", "failed", ValueError("x" * 10_000))
        held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1_000_000
    data = data_of(tmp_path / "run.html")
    assert (data["elapsed"], data["seconds"]) == (12_500, 16)
    assert len(data["points"]) == 782
    assert [total(data, what) for what in ("requests", "applied", "failed")] == [100_000, 50_000, 50_000]
    assert data["points"][5] == [5, {"requests": 128, "applied": 64, "failed": 64}]
    assert len(data["failures"]) == 300
    assert data["kinds"] == [["ValueError", 50_000]]
    assert (tmp_path / "run.html").stat().st_size < 400_000


@pytest.mark.deep
async def test_the_page_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("aiomutex.cli.run_report.time", SimpleNamespace(monotonic=lambda: clock[0]))
    file = tmp_path / "run.html"
    counts = {"applied": 5400, "done earlier": 900, "failed": 599, "unknown": 1, "never tried": 1100}
    facts: dict[str, Any] = {"title": f"Edits of {EVIL}", "counts": counts, "total": 8000, "limit": 97}
    facts |= {"journal": "it's a run.db", "failures_file": "failed.jsonl", "stopped_by": "SIGINT", "resume": "Again."}
    with RunReport(str(file), **facts) as page:
        for number in range(6000):
            clock[0] += 1 / (64 if number % 2000 < 1600 else 32)  # exact in binary
            page.count("requests")
            page.count("failed" if number % 10 == 0 else "applied")
            if number % 10 == 0:
                page.fail(f"line {number}", "failed", ValueError(f"{EVIL} {'long' * 40}"))
        for _ in range(5000):
            page.count("unchanged")
    (tmp_path / "profile").mkdir()
    async with browser(tmp_path / "profile") as tab:
        await tab.resize(1400, 1000)
        await tab.call("Page.navigate", url=file.as_uri())
        await tab.until("document.querySelectorAll('.failures tbody tr').length === 300")
        assert await tab.run("document.title") == f"Edits of {EVIL}"
        assert await tab.run("document.getElementById('state').textContent") == "stopped early"
        assert await tab.run("main.textContent.includes('Stopped by Ctrl-C')")
        outcomes = await tab.run("[...document.querySelectorAll('.facts div')].map(each => each.textContent)")
        assert outcomes == [
            "applied5,400", "done earlier900", "failed599", "unknown1", "never tried1,100", "requests6,000",
        ]  # fmt: skip
        assert await tab.run("[...document.querySelectorAll('code')].map(each => each.textContent)") == [
            "aiomutex slots bulk --undo 'it'\"'\"'s a run.db'",
            "aiomutex slots bulk failed.jsonl",
        ]
        assert await tab.run("document.querySelectorAll('main img, main script').length") == 0
        assert await tab.run("document.querySelector('.failures td:last-child').textContent.startsWith('</script>')")
        label = await tab.run("document.querySelector('.chart').getAttribute('aria-label')")
        assert label == "Requests a second: 53.3 on average, 64 at most, with a limit of 97"

        labels = await tab.run("[...document.querySelectorAll('svg text')].map(each => each.textContent)")
        assert labels[:3] == ["0", "50", "100"], "edits without a request do not decide the scale"

        # The chart tells its numbers: under the pointer, by the keyboard, and as a table.
        await tab.run("document.querySelector('.chart').focus()")
        for _ in range(2):
            await tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
        tip = await tab.run("document.querySelector('.tip').textContent")
        assert tip == "after 1 s\n64 requests/s\n64 outcomes/s, 6 not applied"
        await tab.run("document.querySelector('summary').click()")
        await tab.until("document.querySelectorAll('.scroll tbody tr').length === 113")
        await tab.run("document.querySelector('summary').click()")

        for scheme, colour in (("light", "rgb(245, 246, 249)"), ("dark", "rgb(15, 19, 28)")):
            await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            assert await tab.run("getComputedStyle(document.body).backgroundColor") == colour
            for width in (1400, 420):
                await tab.resize(width, 1400)
                assert await tab.run("document.documentElement.scrollWidth") == width
                await tab.until(f"document.querySelector('svg').viewBox.baseVal.width < {width}")
                assert len(await tab.screenshot(f"run-{scheme}-{width}")) > 10_000
        assert tab.errors == []
        assert {url for url in tab.requested if not url.startswith("data:")} == {file.as_uri()}
