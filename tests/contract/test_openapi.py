"""The contract is valid OpenAPI, names the evidence for each field, and is what the emulator serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest

import aiomutex.emulator
from aiomutex.emulator import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(aiomutex.emulator.__file__).parent / "openapi.json"
EVIDENCE = {"documented", "contradicted", "inferred", "unknown"}


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(FILE.read_text("utf-8")))


@pytest.mark.deep
def test_the_contract_is_valid_openapi(contract: dict[str, Any]) -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator  # noqa: PLC0415 - only CI has it

    OpenAPIV31SpecValidator(contract).validate()


def test_the_contract_has_the_five_endpoints(contract: dict[str, Any]) -> None:
    assert {
        (method, path) for path, item in contract["paths"].items() for method in item if method != "parameters"
    } == {
        ("get", "/api/1/mutexes"),
        ("post", "/api/1/mutexes"),
        ("get", "/api/1/mutexes/{id}"),
        ("patch", "/api/1/mutexes/{id}"),
        ("patch", "/api/1/mutexes/{id}/slots/{slotIndex}"),
    }


def test_each_field_names_its_evidence_and_source(contract: dict[str, Any]) -> None:
    fields = list(described_parts(contract))
    assert len(fields) > 55
    assert not [name for name, part in fields if part.get("x-evidence") not in EVIDENCE or not part.get("x-source")]
    assert {part["x-evidence"] for _, part in fields} == EVIDENCE


def described_parts(contract: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property, parameter, header and response, with its location."""
    components = contract["components"]
    for section in ("parameters", "headers", "responses"):
        for name, part in components[section].items():
            yield f"{section}.{name}", part
    for name, schema in components["schemas"].items():
        if "properties" not in schema and "anyOf" not in schema:
            yield name, schema
        for field, part in schema.get("properties", {}).items():
            yield f"{name}.{field}", part
    for path, item in contract["paths"].items():
        for method, operation in item.items():
            parameters: list[Any] = operation if method == "parameters" else operation.get("parameters", [])
            responses: dict[str, Any] = {} if method == "parameters" else operation["responses"]
            for part in (*parameters, *responses.values()):
                if "$ref" not in part:
                    yield f"{method} {path}", part


@pytest.mark.parametrize(
    ("path", "content_type"), [("/openapi.json", "application/json"), ("/openapi.yaml", "application/yaml")]
)
async def test_the_emulator_serves_the_contract_without_a_key(path: str, content_type: str) -> None:
    async with MutexEmulator(key="secret", per_second=1) as emulator, aiohttp.ClientSession() as http:
        for _ in range(3):
            async with http.get(emulator.url + path) as response:
                assert (response.status, response.content_type) == (200, content_type)
                assert await response.read() == FILE.read_bytes()
        assert emulator.limits.accepted == emulator.limits.rejected == len(emulator.requests) == 0
