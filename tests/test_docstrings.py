"""The examples in docstrings are run, and each public name has a docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import aiomutex

MODULES = sorted(
    found.name for found in pkgutil.walk_packages(aiomutex.__path__, "aiomutex.") if not found.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", aiomutex.__all__)
def test_a_public_name_says_what_it_is(name: str) -> None:
    value = getattr(aiomutex, name)
    if inspect.isclass(value) and value.__module__.startswith("aiomutex"):
        assert inspect.getdoc(value)
        for member, function in inspect.getmembers(value, inspect.isfunction):
            if not member.startswith("_"):
                assert inspect.getdoc(function), f"{name}.{member}"
