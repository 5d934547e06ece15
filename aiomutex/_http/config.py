"""Where the service is and who asks: the checks on region, base URL and API key, with their environment fallbacks."""

from __future__ import annotations

import ipaddress
import os

from yarl import URL

from aiomutex.errors import ConfigurationError

__all__ = ["REGIONS", "check_api_key", "service_url"]

REGIONS = {"us": "https://experiment.amplitude.com", "eu": "https://experiment.eu.amplitude.com"}


def check_api_key(key: object) -> str:
    """The key, if it can stand in a header.

    Raises:
        ConfigurationError: It is missing, empty, or holds anything but visible ASCII. The message never shows it.
    """
    if key is None:
        raise ConfigurationError("no API key: give api_key, or set AMPLITUDE_MANAGEMENT_API_KEY")
    if not isinstance(key, str):
        raise ConfigurationError(f"api_key is of kind {type(key).__name__}; it must be a text")
    if not key:
        raise ConfigurationError("api_key is empty; it must be a management API key")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError("api_key holds white space, a line break or another character no key has")
    return key


def service_url(region: object, base_url: object) -> tuple[URL, str]:
    """The service's address, and how to call it in a repr.

    A ``base_url`` argument comes first, then a ``region`` argument, then ``AIOMUTEX_BASE_URL`` and
    ``AIOMUTEX_REGION``, then the US.

    Raises:
        ConfigurationError: The region is unknown, or the URL cannot be used safely.
    """
    if base_url is None and region is None:
        base_url = os.environ.get("AIOMUTEX_BASE_URL") or None
    if base_url is not None:
        url = _checked(base_url)
        return url, url.authority
    if region is None:
        region = os.environ.get("AIOMUTEX_REGION") or "us"
    if not isinstance(region, str) or region not in REGIONS:
        raise ConfigurationError(f"region is {region!r}; it must be 'us' or 'eu'")
    return URL(REGIONS[region]), region


def _checked(base_url: object) -> URL:
    if not isinstance(base_url, str | URL):
        raise ConfigurationError(f"base_url is of kind {type(base_url).__name__}; it must be a text")
    try:
        url = URL(base_url)
        host, port = url.host, url.port
    except (ValueError, IndexError) as error:  # yarl trips over some brackets
        raise ConfigurationError(f"base_url is {str(base_url)!r}, which is no URL ({error})") from None
    if url.user is not None or url.password is not None:
        raise ConfigurationError("base_url holds a user or a password; the API key is all that is sent")
    if url.scheme not in ("http", "https") or not host or port is None:
        raise ConfigurationError(f"base_url is {str(url)!r}; it must look like 'https://host' or 'https://host:port'")
    try:
        # As the name is looked up: resolvers raise this error bare.
        (url.raw_host or "").encode("idna")
    except UnicodeError:
        raise ConfigurationError(
            f"base_url is {str(url)!r}; each part of its host's name must have 1 to 63 characters"
        ) from None
    if url.query_string or url.fragment:
        raise ConfigurationError(f"base_url is {str(url)!r}; it must have no query and no fragment")
    if url.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(
            f"base_url is {str(url)!r}; plain http would show the API key to the network, so it must be https "
            "(http is for loopback only)"
        )
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
