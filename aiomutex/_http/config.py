"""The API key, the region and the base URL of a session: their checks and their fallbacks from the environment."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import warnings

from yarl import URL

from aiomutex._util.checks import describe, type_name
from aiomutex.errors import ConfigurationError

REGIONS = {"us": "https://experiment.amplitude.com", "eu": "https://experiment.eu.amplitude.com"}


def check_api_key(key: object) -> str:
    """Return the key if a header can hold it. The message of the ``ConfigurationError`` otherwise never shows it."""
    if key is None:
        raise ConfigurationError("api_key is missing: pass it, or set AMPLITUDE_MANAGEMENT_API_KEY")
    if not isinstance(key, str):
        raise ConfigurationError(f"api_key must be a string, not {type_name(key)}")
    if not key:
        raise ConfigurationError("api_key must not be empty")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError("api_key must be visible ASCII, without spaces and line breaks")
    return key


def service_url(region: object, base_url: object, *, allow_insecure_http: bool = False) -> tuple[URL, str]:
    """Return the service's address, and its name for a repr.

    The first of these that is set: the argument ``base_url``, the argument ``region``, ``AIOMUTEX_BASE_URL`` and
    ``AIOMUTEX_REGION`` from the environment, the US.
    """
    if base_url is not None and region is not None:
        raise ConfigurationError("region and base_url exclude each other: pass one of them")
    if base_url is None and region is None:
        base_url = os.environ.get("AIOMUTEX_BASE_URL") or None
    if base_url is not None:
        url = _checked(base_url, allow_insecure_http or os.environ.get("AIOMUTEX_ALLOW_INSECURE_HTTP") == "1")
        return url, url.authority
    if region is None:
        region = os.environ.get("AIOMUTEX_REGION") or "us"
    if not isinstance(region, str) or region not in REGIONS:
        raise ConfigurationError(f"region must be 'us' or 'eu', not {describe(region)}")
    return URL(REGIONS[region]), region


def _checked(base_url: object, allow_insecure_http: bool) -> URL:
    if not isinstance(base_url, str | URL):
        raise ConfigurationError(f"base_url must be a string, not {type_name(base_url)}")
    try:
        url = URL(base_url)
        host, port = url.host, url.port
    except (ValueError, IndexError) as error:  # yarl raises IndexError for some brackets
        raise ConfigurationError(f"base_url must be a URL, not {str(base_url)!r} ({error})") from None
    if url.user is not None or url.password is not None:
        raise ConfigurationError("base_url must not have a user or a password; the API key is the only credential")
    if url.scheme not in ("http", "https") or not host or port is None:
        raise ConfigurationError(f"base_url must look like 'https://host' or 'https://host:port', not {str(url)!r}")
    try:
        # Resolvers encode the host name like this, and would raise a bare UnicodeError.
        (url.raw_host or "").encode("idna")
    except UnicodeError:
        raise ConfigurationError(
            f"base_url must have a host name whose parts have 1 to 63 characters each, not {str(url)!r}"
        ) from None
    if url.query_string or url.fragment:
        raise ConfigurationError(f"base_url must have no query and no fragment, not {str(url)!r}")
    if url.scheme == "http" and not _is_loopback(host):
        if not allow_insecure_http or f".{host}".lower().rstrip(".").endswith(".amplitude.com"):
            raise ConfigurationError(
                f"base_url must be https, not {str(url)!r}: plain http would show the API key to the network. It is "
                "allowed for loopback addresses and, with allow_insecure_http, for an emulator in a network of your own"
            )
        warnings.warn(f"the API key is sent over plain http to {url.authority}", RuntimeWarning, stacklevel=4)
    return url


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
