"""The undocumented parts of aiohttp that this package uses, each with its purpose, from ``internals.json``.

They are checked once, when this module is imported. If the installed aiohttp lacks one of them or has it with another
signature, a warning says so, and sessions use documented aiohttp only (see ``pool``).
"""

from __future__ import annotations

import dis
import functools
import importlib
import inspect
import warnings
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec


class Internal(msgspec.Struct, frozen=True):
    path: str  # module, class and attribute
    signature: str | None
    """The parameters without ``self``; ``async`` for a coroutine function; ``...`` for further optional parameters,
    which a method that is overridden here must not have. ``None`` for what is not a method."""
    purpose: str


INTERNALS: Final = msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes(), type=tuple[Internal, ...])


def find_missing() -> tuple[str, ...]:
    """Return the paths of the internals that the installed aiohttp lacks, or has with another signature."""
    return tuple(internal.path for internal in INTERNALS if not _is_present(internal))


def _is_present(internal: Internal) -> bool:
    module, owner_name, name = internal.path.split(".")
    try:
        owner = getattr(importlib.import_module(f"aiohttp.{module}"), owner_name)
    except (ImportError, AttributeError):
        return False
    if internal.signature is None:
        return hasattr(owner, name) or any(name in _set_by_init(base) for base in owner.__mro__)
    return _has_signature(getattr(owner, name, None), internal.signature)


@functools.cache
def _set_by_init(owner: type) -> set[str]:
    """The attributes that a class sets in its constructor. Calling that would need an event loop."""
    init = vars(owner).get("__init__")
    if not inspect.isfunction(init):
        return set()
    return {step.argval for step in dis.get_instructions(init) if step.opname == "STORE_ATTR"}


def _has_signature(method: Any, signature: str) -> bool:
    try:
        parameters = list(inspect.signature(method).parameters.values())[1:]
    except (TypeError, ValueError):
        return False
    prefix = "async " if inspect.iscoroutinefunction(method) else ""
    is_open = signature.endswith("...)")
    names = [each.name for each in parameters if not is_open or each.default is each.empty]
    return signature == f"{prefix}({', '.join([*names, '...'] if is_open else names)})"


MISSING: Final = find_missing()

if MISSING:
    warnings.warn(
        f"aiohttp {aiohttp.__version__} lacks internals that aiomutex uses, or has them with another signature: "
        f"{', '.join(MISSING)}. Sessions use documented aiohttp only: permits are taken before a connection is ready, "
        "so slow connection set-up may bunch requests (LocalRateLimiter(safe=True) leaves room for that), and each "
        "request costs more CPU time. A newer aiomutex may support this aiohttp",
        RuntimeWarning,
        stacklevel=2,
    )
