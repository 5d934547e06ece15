"""Every snippet of each README runs: Python as programs, command lines against an emulator.

A fence may name a file after its language, as in ```` ```yaml groups.yaml ````: the file is there for all snippets.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from asgi import serving

from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from redis_server import RedisServer

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
READMES = [README, *sorted(ROOT.glob("aiomutex/*/README.md")), *sorted(ROOT.glob("[!.]*/README.md"))]


class Snippet(NamedTuple):
    readme: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.readme.relative_to(ROOT)}:{self.line}"


def snippets_of(readme: Path) -> list[Snippet]:
    text = readme.read_text()
    return [
        Snippet(readme, text[: match.start()].count("\n") + 1, match[1], match[2])
        for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)
    ]


SNIPPETS = [snippet for readme in READMES for snippet in snippets_of(readme)]


def snippets(language: str) -> list[Snippet]:
    return [snippet for snippet in SNIPPETS if snippet.language == language]


def program(snippet: Snippet, folder: Path) -> str:
    path = folder / "snippet.py"
    path.write_text(snippet.text)
    return str(path)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MutexEmulator]:
    """An emulator in the environment, and a folder with the files that the READMEs show."""
    with MutexEmulator(groups=10) as emulator:
        monkeypatch.setenv("AIOMUTEX_BASE_URL", emulator.url)
        monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "any")
        monkeypatch.chdir(tmp_path)
        for snippet in SNIPPETS:
            _, _, name = snippet.language.partition(" ")
            if "." in name:
                (tmp_path / name).write_text(snippet.text)
        (tmp_path / "users.txt").write_text("ada\ngrace\n")
        (tmp_path / "dialect.json").write_text("{}")
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


@contextlib.asynccontextmanager
async def _serving(app: object) -> AsyncGenerator[str]:
    if isinstance(app, web.Application):
        async with TestServer(app) as server:
            yield str(server.make_url("/"))
    else:
        async with serving(app) as url:
            yield url


async def _visit(app: object) -> None:
    async with _serving(app) as url, aiohttp.ClientSession(url) as http:
        async with http.get("/groups/1") as response:
            assert response.status == 200
            assert (await response.json())["key"] == "group-1"
        async with http.get("/groups/99") as response:
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
def test_the_fleet_runs(service: MutexEmulator, redis_server: RedisServer, tmp_path: Path) -> None:
    before = service.groups["10"].slots[0].experiments
    programs: list[Path] = []
    for snippet in snippets("python fleet"):
        text = snippet.text.replace("redis://localhost:6379", redis_server.url).replace("1_001", "11")
        programs.append(tmp_path / text.splitlines()[0].removeprefix("# "))
        programs[-1].write_text(text)
    module = [sys.executable, "-m", "taskiq", "worker", "migration:broker", "--workers", "1"]
    contents: list[list[int]] = []
    with subprocess.Popen(module, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
        try:
            for program in programs:
                run = [sys.executable, str(program)]
                done = subprocess.run(run, capture_output=True, text=True, timeout=90, check=False)
                assert done.stdout == "10 edits: 10 applied\n", done.stderr
                contents.append(service.groups["10"].slots[0].experiments)
        finally:
            worker.terminate()
    assert contents == [[123], before]


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(ROOT)))
def test_the_command_lines_of_a_readme_run_in_order(service: MutexEmulator, readme: Path) -> None:
    for snippet in snippets_of(readme):
        if snippet.language == "console":
            for line in snippet.text.splitlines():
                if line.startswith("$ aiomutex "):
                    run_command_line(line[2:], str(snippet))
    assert service.limits.rejected == 0


def run_command_line(line: str, where: str) -> None:
    words = shlex.split(line, comments=True)
    if words[1] == "emulator":
        serves(words)
        return
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=60, check=False, encoding="utf-8"
    )
    expected = (0, 4) if words[1] == "plan" else (0,)  # 4: there are changes
    assert done.returncode in expected, f"{where}: {line}\n{done.stdout}\n{done.stderr}"


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


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(ROOT)))
def test_each_extra_a_readme_names_exists(readme: Path) -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    for group in re.findall(r"\[([a-z,]+)\]'", readme.read_text()):
        for extra in group.split(","):
            assert f"\n{extra} = [" in declared, extra


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(ROOT)))
def test_each_link_of_a_readme_leads_to_a_file_and_a_heading(readme: Path) -> None:
    for link in re.findall(r"\]\(([^):]+)\)", readme.read_text()):  # with a colon it is another site's
        path, _, heading = link.partition("#")
        target = (readme.parent / path).resolve() if path else readme
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^a-z0-9 _-]", "", each.lower()).replace(" ", "-") for each in headings}, link
