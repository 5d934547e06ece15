"""The page of ``aiomutex report``: what it holds, and how it behaves in headless Chromium.

``AIOMUTEX_SCREENSHOTS`` is a directory for screenshots.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import command_line
import pytest
from emulator.test_page_in_browser import browser
from msgspec.structs import replace

from aiomutex import MutexGroup, Slot
from aiomutex.plan import Plan, Review, parse_desired, plan, report

from .experiments_listing import LISTING, ExperimentPages
from .serving import serve_groups

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from aiomutex.emulator import MutexEmulator

EVIL = '</script><script>document.title = "injected"</script><!--<img src=x onerror="document.title=`injected`">'


def data_of(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert "<" not in text
    return json.loads(text)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MutexEmulator]:
    """3,000 groups with 9,000 experiments."""
    yield from serve_groups(3000, monkeypatch, tmp_path)


def experiments_of(emulator: MutexEmulator) -> dict[int, dict[str, Any]]:
    numbers = [number for group in emulator.groups.values() for slot in group.slots for number in slot.experiments]
    states = ("running", "planning", "decision-made")
    return {number: {"name": f"Idea {number}", "state": states[number % 3]} for number in numbers}


def test_what_groups_and_experiments_contain_stays_data(group: MutexGroup) -> None:
    slot = Slot(index=1, percentage=100, experiments=[1], individuals=[EVIL])
    evil = replace(group, key=EVIL, name=EVIL, slots=[slot])
    review = Review(experiments={1: {"name": EVIL, "state": EVIL}})
    data = data_of(report([evil], Plan(), review))
    assert data["groups"][0]["name"] == data["groups"][0]["slots"][0]["individuals"][0] == EVIL
    assert data["experiments"]["1"][0] == EVIL


def test_individuals_are_counted_unless_they_are_asked_for(group: MutexGroup) -> None:
    twice = replace(group, slots=[replace(slot, individuals=["eve@example.com"]) for slot in group.slots])
    text = "groups: [{projectId: 1, key: checkout, slots: [{percentage: 40, individuals: [bob]}, {percentage: 60}]}]"
    changes = plan(parse_desired(text), [twice])
    hidden, shown = report([twice], changes), report([twice], changes, Review())
    assert "eve@" not in hidden
    assert "bob" not in hidden
    assert data_of(hidden)["groups"][0]["slots"][0]["individuals"] == [""]
    assert "eve@" in shown
    assert {finding["code"] for finding in data_of(shown)["findings"]} >= {"AM104"}


def test_the_page_refers_to_nothing_else(group: MutexGroup) -> None:
    page = report([group], Plan())
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in page


def test_a_report_on_3000_groups_takes_few_requests_and_little_time(service: MutexEmulator, tmp_path: Path) -> None:
    pages = ExperimentPages(service, experiments_of(service))
    started = time.process_time()
    done = command_line.run("report", "--out", "groups.html")
    seconds = time.process_time() - started
    assert (done.exit_code, done.output) == (0, "Wrote a report on 3,000 live groups to groups.html\n")
    # The emulator runs in this process too.
    assert seconds < 3
    assert set(pages.paths) == {LISTING}
    data = data_of((tmp_path / "groups.html").read_text())
    assert (len(data["groups"]), len(data["experiments"]), data["plan"], data["after"]) == (3000, 9000, [], {})
    assert data["experiments"]["101"] == ["Idea 101", "decision-made", "stopped", True]
    assert data["experiments"]["102"] == ["Idea 102", "running", "running", False]


def test_a_report_shows_a_plan_and_a_plan_makes_the_same_page(service: MutexEmulator, tmp_path: Path) -> None:
    ExperimentPages(service, experiments_of(service) | {5: {"name": "Five", "state": "planning"}})
    (tmp_path / "g.yaml").write_text(
        "groups:\n- {projectId: 1, key: group-7, name: Till}\n"
        "- {projectId: 1, key: new, name: New, slots: [{percentage: 100, experiments: [5]}]}"
    )
    assert command_line.run("report", "--out", "r.html", "--plan", "g.yaml").exit_code == 0
    data = data_of((tmp_path / "r.html").read_text())
    assert sorted(data["after"]) == ["7", "new"]
    assert data["after"]["7"]["name"] == "Till"
    assert data["plan"][0][0] == ["~", "~ group-7 (project 1): update"]
    assert data["experiments"]["5"] == ["Five", "planning", "stopped", False]
    assert command_line.run("plan", "g.yaml", "--out", "c.plan").exit_code == 4
    for file in ("g.yaml", "c.plan"):
        done = command_line.run("plan", file, "--format", "html")
        assert done.exit_code == 4
        assert data_of(done.output) | {"time": ""} == data | {"time": ""}


@pytest.mark.deep
async def test_the_page_in_a_browser(tmp_path: Path, group: MutexGroup) -> None:
    live = [
        replace(group, slots=[Slot(index=1, percentage=50, experiments=[1]), Slot(index=2, percentage=30)]),
        replace(group, id="8", key="evil", name=EVIL, slots=[Slot(index=1, percentage=100, experiments=[1, 2])]),
        *(replace(group, id=str(number), key=f"group-{number}", name="") for number in range(9, 3009)),
    ]
    experiments: dict[int, Any] = {1: {"name": EVIL, "state": "running"}, 2: {"name": "Two", "state": "decision-made"}}
    text = (
        "groups: [{projectId: 1, key: checkout, slots: [{percentage: 50, experiments: []}, {percentage: 30, "
        "experiments: [1]}]}, {projectId: 1, key: new, name: New, slots: [{percentage: 100}]}]"
    )
    page_file = tmp_path / "report.html"
    page_file.write_text(report(live, plan(parse_desired(text), live), Review(experiments=experiments)))
    (tmp_path / "profile").mkdir()
    async with browser(tmp_path / "profile") as page:
        await page.resize(1400, 1000)
        await page.call("Page.navigate", url=page_file.as_uri())
        await page.until("document.querySelectorAll('[role=tab]').length === 5")
        assert await page.run("document.title") == "Mutex groups"
        assert await page.run("view.textContent.includes('slot 1 → slot 2')")

        # Groups: those that change come first, with now and planned side by side.
        await page.run("document.querySelector('[data-view=groups]').click()")
        assert await page.run("[...document.querySelectorAll('.tag.good')].map(each => each.textContent)") == [
            "will be created",
            "will change",
        ]
        assert await page.run("document.querySelectorAll('.sides .bar').length") == 2
        label = await page.run("document.querySelector('.sides .bar').getAttribute('aria-label')")
        assert label == f"Slot 1: 50\u00a0%, 1 {EVIL}; Slot 2: 30\u00a0%, no experiments; Unallocated: 20\u00a0%"
        assert await page.run("document.querySelectorAll('main img, main script').length") == 0

        # All groups can be reached by scrolling.
        first = await page.run("document.querySelectorAll('.group').length")
        assert first < 3003
        await page.until(
            "(document.getElementById('more')?.scrollIntoView(), document.querySelectorAll('.group').length === 3003)"
        )

        # Search by key, experiment and individual; keyboard.
        async def count(words: str) -> int:
            await page.run(f"search.value = {json.dumps(words)}; search.dispatchEvent(new Event('input'))")
            return int(await page.run("document.querySelectorAll('.group').length"))

        assert [await count(words) for words in ("group-77", "two", "1 </SCRIPT>", "no such thing")] == [11, 1, 2, 0]
        assert await count("ada") == 400  # the first ones of 3,000
        assert await page.run("document.activeElement.blur(), document.activeElement !== search")
        await page.call("Input.dispatchKeyEvent", type="keyDown", key="/", text="/")
        assert await page.run("document.activeElement === search")
        await page.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
        assert await page.run("search.value") == ""
        await page.run("document.querySelector('[data-view=groups]').focus()")
        await page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
        assert await page.run("document.activeElement.dataset.view") == "capacity"

        # Capacity is ranked; traffic multiplies.
        row = "[...document.querySelectorAll('tbody tr')].map(each => [...each.children].map(cell => cell.textContent))"
        rows = await page.run(row)
        assert rows[0] == ["checkout", "30\u00a0%", "30\u00a0%", "0\u00a0%", "20\u00a0%"]
        await page.run("select('traffic')")
        rows = await page.run(row)
        assert rows[0] == [f"1 {EVIL}", "running", "50\u00a0%", "checkout 50\u00a0% × evil 100\u00a0%"]  # noqa: RUF001
        await page.run("select('findings')")
        assert ["AM113", "evil", "experiment 2 is decided"] in [each[:3] for each in await page.run(row)]

        for scheme, colour in (("light", "rgb(245, 246, 249)"), ("dark", "rgb(15, 19, 28)")):
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            assert await page.run("getComputedStyle(document.body).backgroundColor") == colour
            for width in (1400, 420):
                await page.resize(width, 1200)
                for name in ("plan", "groups", "capacity", "traffic", "findings"):
                    await page.run(f"select('{name}')")
                    assert await page.run("document.documentElement.scrollWidth") == width
                    shot = await page.screenshot(f"report-{scheme}-{width}-{name}")
                    assert len(shot) > 10_000
        assert await page.run("document.title") == "Mutex groups"
        assert page.errors == []
        assert {url for url in page.requested if not url.startswith("data:")} == {page_file.as_uri()}
