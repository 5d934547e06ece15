"""The contract is valid, says for each field what it rests on, and is what the emulator serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest
import yaml

import aiomutex.emulator
from aiomutex.emulator import Dialect, MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(aiomutex.emulator.__file__).parent
EVIDENCE = {"documented", "contradicted", "inferred", "unknown"}


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load((FOLDER / "openapi.yaml").read_text()))


def test_the_json_is_the_yaml(contract: dict[str, Any]) -> None:
    """After a change of the YAML: ``python tests/contract/write_json.py``."""
    assert json.loads((FOLDER / "openapi.json").read_text()) == contract


@pytest.mark.deep
def test_it_is_valid_openapi(contract: dict[str, Any]) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator  # noqa: PLC0415 - only CI has it

    OpenAPIV31SpecValidator(contract).validate()


def test_it_has_the_five_endpoints(contract: dict[str, Any]) -> None:
    assert {
        (method, path) for path, item in contract["paths"].items() for method in item if method != "parameters"
    } == {
        ("get", "/api/1/mutexes"),
        ("post", "/api/1/mutexes"),
        ("get", "/api/1/mutexes/{id}"),
        ("patch", "/api/1/mutexes/{id}"),
        ("patch", "/api/1/mutexes/{id}/slots/{slotIndex}"),
    }


def test_each_field_says_what_it_rests_on(contract: dict[str, Any]) -> None:
    fields = list(facts(contract))
    assert len(fields) > 55
    bare = [place for place, fact in fields if fact.get("x-evidence") not in EVIDENCE or not fact.get("x-source")]
    assert not bare
    assert {fact["x-evidence"] for _, fact in fields} == EVIDENCE


def facts(contract: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property, parameter, header and answer, with where it stands."""
    parts = contract["components"]
    for kind in ("parameters", "headers", "responses"):
        for name, fact in parts[kind].items():
            yield f"{kind}.{name}", fact
    for name, schema in parts["schemas"].items():
        if "properties" not in schema and "anyOf" not in schema:
            yield name, schema
        for field, fact in schema.get("properties", {}).items():
            yield f"{name}.{field}", fact
    for path, item in contract["paths"].items():
        for method, operation in item.items():
            alone: list[Any] = operation if method == "parameters" else operation.get("parameters", [])
            answers: dict[str, Any] = {} if method == "parameters" else operation["responses"]
            for fact in (*alone, *answers.values()):
                if "$ref" not in fact:
                    yield f"{method} {path}", fact


@pytest.mark.parametrize(("name", "kind"), [("openapi.json", "application/json"), ("openapi.yaml", "application/yaml")])
async def test_the_emulator_serves_it_to_everybody(name: str, kind: str) -> None:
    async with (
        MutexEmulator(key="secret", per_second=1, dialect=Dialect()) as emulator,
        aiohttp.ClientSession() as http,
    ):
        for _ in range(3):
            async with http.get(f"{emulator.url}/{name}") as answer:
                assert (answer.status, answer.content_type) == (200, kind)
                assert await answer.read() == (FOLDER / name).read_bytes()
        assert emulator.limits.accepted == emulator.limits.refused == len(emulator.requests) == 0
