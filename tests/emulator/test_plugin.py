"""The pytest plugin in separate test suites: plain tests, pytest-asyncio in both modes, anyio's plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiomutex.testing
from aiomutex.emulator import MutexEmulator

ROOT = Path(__file__).parents[2]

PLAIN = """
import json, urllib.request

def group_ids(emulator):
    request = urllib.request.Request(emulator.url + "/api/1/mutexes", headers={"Authorization": "Bearer key"})
    with urllib.request.urlopen(request) as response:
        return [group["id"] for group in json.load(response)["mutexes"]]

def test_one(mutex_emulator):
    mutex_emulator.add_group("7", slots=[{"percentage": 100, "experiments": [1]}])
    assert group_ids(mutex_emulator) == [7]

def test_two_does_not_see_the_groups_of_test_one(mutex_emulator):
    assert group_ids(mutex_emulator) == []
    assert [request.status for request in mutex_emulator.requests] == [200]
"""

COROUTINES = """
import aiohttp, pytest

async def group_ids(emulator):
    async with aiohttp.ClientSession(headers={{"Authorization": "Bearer key"}}) as http:
        async with http.get(emulator.url + "/api/1/mutexes") as response:
            return [group["id"] for group in (await response.json())["mutexes"]]

{mark}
async def test_one(mutex_emulator):
    mutex_emulator.add_group("7")
    assert await group_ids(mutex_emulator) == [7]

{mark}
async def test_two_does_not_see_the_groups_of_test_one(mutex_emulator):
    assert await group_ids(mutex_emulator) == []
"""

LOOP_SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")
ASYNCIO_ONLY = '@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n'


def run(tmp_path: Path, code: str, *options: str) -> None:
    (tmp_path / "test_suite.py").write_text(code)
    # Load the plugin exactly once and from this tree, whether it is installed or not.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": "",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "aiomutex.testing", *options, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_fixture_works_in_plain_tests(tmp_path: Path) -> None:
    run(tmp_path, PLAIN)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_fixture_works_under_pytest_asyncio(tmp_path: Path, mode: str) -> None:
    mark = "@pytest.mark.asyncio" if mode == "strict" else ""
    run(tmp_path, COROUTINES.format(mark=mark), "-p", "pytest_asyncio.plugin", f"--asyncio-mode={mode}", *LOOP_SCOPE)


def test_the_fixture_works_under_the_plugin_of_anyio(tmp_path: Path) -> None:
    code = COROUTINES.format(mark="@pytest.mark.anyio") + ASYNCIO_ONLY
    run(tmp_path, code, "-p", "anyio.pytest_plugin")


def test_the_plugin_does_not_import_the_emulator() -> None:
    code = (
        "import sys, aiomutex.testing as t; assert not any('emulator' in name for name in sys.modules);"
        "from aiomutex.testing import MutexEmulator; assert 'aiomutex.emulator' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_plugin_exports_only_the_emulator() -> None:
    assert aiomutex.testing.MutexEmulator is MutexEmulator
    with pytest.raises(AttributeError, match="no attribute 'Emulator'"):
        _ = aiomutex.testing.Emulator  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


def test_the_emulator_does_not_import_the_client() -> None:
    sources = sorted((ROOT / "aiomutex" / "emulator").glob("*.py"))
    lines = [line.strip() for source in sources for line in source.read_text().splitlines()]
    imports = [line for line in lines if line.startswith(("import aiomutex", "from aiomutex"))]
    assert len(imports) > 20
    assert all(line.startswith("from aiomutex.emulator") for line in imports)
