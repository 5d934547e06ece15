"""The examples in docstrings run, and every public name has a docstring."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
from typing import TYPE_CHECKING, Any

import pytest

import aiomutex
from aiomutex import MutexSession
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from pathlib import Path

MODULES = sorted(
    found.name for found in pkgutil.walk_packages(aiomutex.__path__, "aiomutex.") if not found.name.endswith("__main__")
)
EXAMPLES = [
    test
    for name in MODULES
    for test in doctest.DocTestFinder().find(importlib.import_module(name))
    if test.examples and name == test.globs["__name__"]
]
CHECKER = doctest.OutputChecker()


@pytest.mark.parametrize("test", EXAMPLES, ids=[test.name for test in EXAMPLES])
async def test_an_example_prints_what_it_says(
    test: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples may use ``await``, ``MutexSession``, and ``url`` and ``session`` of an emulator with three groups."""
    monkeypatch.chdir(tmp_path)
    async with MutexEmulator(groups=3) as emulator, MutexSession("key", base_url=emulator.url) as session:
        names = test.globs | {"MutexSession": MutexSession, "session": session, "url": emulator.url}
        for example in test.examples:
            printed = await run(example.source, names)
            assert CHECKER.check_output(example.want, printed, 0), f"{example.source}printed\n{printed}"


async def run(source: str, names: dict[str, Any]) -> str:
    code = compile(source, "<example>", "single", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        value = eval(code, names)  # the examples are our own
        if inspect.iscoroutine(value):
            await value
    return printed.getvalue()


@pytest.mark.parametrize("name", aiomutex.__all__)
def test_a_public_name_has_a_docstring(name: str) -> None:
    value = getattr(aiomutex, name)
    if inspect.isclass(value) and value.__module__.startswith("aiomutex"):
        assert inspect.getdoc(value)
        for member, function in inspect.getmembers(value, inspect.isfunction):
            if not member.startswith("_"):
                assert inspect.getdoc(function), f"{name}.{member}"


def test_every_public_method_of_the_session_has_an_example() -> None:
    methods = [name for name, _ in inspect.getmembers(MutexSession, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if ">>>" not in (getattr(MutexSession, name).__doc__ or "")] == []
