"""The undocumented parts of aiohttp that this package uses, each with its purpose.

They are checked once, when this module is imported. If the installed aiohttp lacks one of them or has it with another
signature, a warning says so, and sessions use documented aiohttp only (see ``pool``).
"""

from __future__ import annotations

import dis
import functools
import importlib
import inspect
import warnings
from typing import Any, Final, NamedTuple

import aiohttp


class Internal(NamedTuple):
    """A name of aiohttp."""

    path: str
    """Module, class and attribute."""
    signature: str | None
    """The parameters without ``self``; ``async`` for a coroutine function; ``...`` for further optional parameters,
    which a method that is overridden here must not have. ``None`` for what is not a method."""
    purpose: str


INTERNALS: Final = (
    Internal("connector.TCPConnector.connect", "async (req, traces, timeout)", "take the permit with a connection"),
    Internal(
        "connector.TCPConnector._wait_for_available_connection",
        "async (key, traces)",
        "notice that a waiter is cancelled after it was woken up",
    ),
    Internal("connector.TCPConnector._release_waiter", "()", "wake up the next waiter"),
    Internal("connector.TCPConnector._factory", None, "make connections of our class"),
    Internal("connector.Connection.protocol", None, "get the connection of our class"),
    Internal("client_proto.ResponseHandler.__init__", "(loop)", "be the base of that class"),
    Internal("client_proto.ResponseHandler.is_connected", "()", "take no permit for a connection that is lost"),
    Internal("client_proto.ResponseHandler.connection_lost", "(exc)", "notice a lost connection before the permit"),
    Internal("client_proto.ResponseHandler.data_received", "(data)", "notice data that no request asked for"),
    Internal("client_proto.ResponseHandler._payload", None, "know whether the last response is complete"),
    Internal("client_proto.ResponseHandler._waiter", None, "know whether a response is awaited"),
    Internal("client_proto.ResponseHandler._buffer", None, "know whether a response has come that is not read yet"),
    Internal("client_proto.ResponseHandler.feed_data", "(data, size)", "notice a switch of protocols"),
    Internal("http.RawResponseMessage.code", None, "notice a switch of protocols"),
    Internal("client_proto.ResponseHandler.close", "()", "close a connection"),
    Internal("client_proto.ResponseHandler.force_close", "()", "keep a connection out of the pool"),
    Internal("client_proto.ResponseHandler.start_timeout", "()", "do what aiohttp does once a request is written"),
    Internal("client_proto.ResponseHandler.writing_paused", None, "leave a write that would block to aiohttp"),
    Internal("client_reqrep.ClientRequest.send", "async (conn)", "write a request without a task for its body"),
    Internal("client_reqrep.ClientRequest._continue", None, "leave an unusual request to aiohttp"),
    Internal("client_reqrep.ClientRequest._traces", None, "leave an unusual request to aiohttp"),
    Internal("client_reqrep.ClientRequest._timer", None, "make the response"),
    Internal("client_reqrep.ClientRequest.request_info", None, "make the response"),
    Internal(
        "client_reqrep.ClientResponse.__init__",
        "(method, url, writer, continue100, timer, request_info, traces, loop, session, stream_writer)",
        "make the response",
    ),
    Internal("http.StreamWriter.__init__", "(protocol, loop, ...)", "write a request"),
    Internal("http.StreamWriter.write_headers", "async (status_line, headers)", "write a request"),
    Internal("http.StreamWriter.write_eof", "async (chunk)", "write a request"),
    Internal("http.StreamWriter.set_eof", "()", "write a request without a body"),
    Internal("payload.BytesPayload.as_bytes", "async (...)", "write a request's body together with its headers"),
    Internal("client.ClientSession._default_proxy", None, "keep the API key from the proxy of a borrowed session"),
)


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
    if not signature.endswith("...)"):
        return signature == f"{prefix}({', '.join(parameter.name for parameter in parameters)})"
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return signature == f"{prefix}({', '.join([*required, '...'])})"


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
