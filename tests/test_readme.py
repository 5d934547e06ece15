"""Every snippet of the README is run: Python as programs, shell lines against an emulator."""

from __future__ import annotations

import asyncio
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_server import RedisServer

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


class Snippet(NamedTuple):
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}"


def snippets(*languages: str) -> list[Snippet]:
    text = README.read_text()
    return [
        Snippet(text[: match.start()].count("\n") + 1, match[1], match[2])
        for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
        if match[1] in languages
    ]


def program(snippet: Snippet, folder: Path) -> str:
    path = folder / "snippet.py"
    path.write_text(snippet.text)
    return str(path)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MutexEmulator]:
    """An emulator in the environment, and an empty folder to work in."""
    with MutexEmulator(groups=10) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "any")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "edits.jsonl").write_text("".join(example.text for example in snippets("json")))
        (tmp_path / "groups.yaml").write_text("".join(example.text for example in snippets("yaml")[:1]))
        (tmp_path / "users.txt").write_text("ada\ngrace\n")
        yield emulator


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
def test_a_python_snippet_runs(snippet: Snippet, service: MutexEmulator, tmp_path: Path) -> None:
    names = runpy.run_path(program(snippet, tmp_path), run_name="readme")
    if "app" in names:
        asyncio.run(_visit(names["app"]))
    for name, value in names.items():
        if name.startswith("test_"):
            with MutexEmulator() as fresh:
                asyncio.run(value(fresh))


async def _visit(app: web.Application) -> None:
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        async with http.get(server.make_url("/groups/1")) as response:
            assert response.status == 200
            assert (await response.json())["key"] == "group-1"
        async with http.get(server.make_url("/groups/99")) as response:
            assert response.status == 404


@pytest.mark.redis
@pytest.mark.parametrize("snippet", snippets("python redis"), ids=str)
def test_a_python_snippet_with_redis_runs(
    snippet: Snippet, service: MutexEmulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    text = snippet.text.replace("redis://127.0.0.1:6379", redis_server.url)
    runpy.run_path(program(snippet._replace(text=text), tmp_path), run_name="readme")
    assert service.limits.accepted >= 1


@pytest.mark.deep
@pytest.mark.redis
@pytest.mark.parametrize("snippet", snippets("python fleet"), ids=str)
def test_the_fleet_runs(snippet: Snippet, service: MutexEmulator, redis_server: RedisServer, tmp_path: Path) -> None:
    text = snippet.text.replace("redis://localhost:6379", redis_server.url).replace("1_001", "11")
    (tmp_path / "migration.py").write_text(text)
    module = [sys.executable, "-m", "taskiq", "worker", "migration:broker", "--workers", "1"]
    with subprocess.Popen(module, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:
            run = [sys.executable, "migration.py"]
            done = subprocess.run(run, capture_output=True, text=True, timeout=90, check=False)
        finally:
            worker.terminate()
    assert done.stdout == "10 edits: 10 applied\n", done.stderr
    assert service.groups["10"].slots[0].experiments == [123]


def shell_lines() -> list[tuple[str, str]]:
    """The README's command lines that are of this library, each with its block's first line number."""
    return [
        (f"line {block.line}: {line[2:]}", line[2:])
        for block in snippets("console")
        for line in block.text.splitlines()
        if line.startswith("$ aiomutex ")
    ]


def test_the_command_lines_run_in_order(service: MutexEmulator, tmp_path: Path) -> None:
    (tmp_path / "dialect.json").write_text("{}")
    lines = shell_lines()
    assert lines
    for where, line in lines:
        words = shlex.split(line, comments=True)
        if words[1] == "emulator":
            serves(words)
            continue
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, timeout=60, check=False, encoding="utf-8"
        )
        assert done.returncode in ((0, 2) if words[1] == "plan" else (0,)), f"{where}\n{done.stdout}\n{done.stderr}"
    assert service.limits.refused == 0


def serves(words: list[str]) -> None:
    """An emulator that starts on a free port, says where, and ends when it is told to."""
    free = ["0" if word == "8080" else word for word in words] + ([] if "--port" in words else ["--port", "0"])
    process = subprocess.Popen(
        [sys.executable, "-m", *free], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert "listens on http://127.0.0.1:" in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_each_extra_the_readme_names_exists() -> None:
    text = README.read_text()
    named = {extra for group in re.findall(r"\[([a-z,]+)\]'", text) for extra in group.split(",")}
    declared = (ROOT / "pyproject.toml").read_text()
    assert named
    for extra in named:
        assert f"\n{extra} = [" in declared, extra


def test_each_link_within_the_readme_leads_to_a_heading() -> None:
    text = README.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for link in re.findall(r"\]\(#([^)]*)\)", text):
        assert link in headings, link
