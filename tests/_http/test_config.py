"""Where the service is and who asks: key, region and base URL, and their environment fallbacks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import KEY
from yarl import URL

from aiomutex import ConfigurationError, LocalRateLimiter, MutexSession
from aiomutex._http.config import check_api_key, service_url

US = "https://experiment.amplitude.com"
EU = "https://experiment.eu.amplitude.com"


@pytest.mark.parametrize(
    "key",
    [
        "",
        " ",
        "\n",
        f"{KEY}\n",
        f"{KEY}\r\nX-Evil: 1",
        f" {KEY}",
        f"{KEY} ",
        "a b",
        "a\tb",
        "a\x00",
        "a\x7f",
        "kéy",
        5,
        b"key",
        ["k"],
        True,
    ],
)
def test_a_key_that_cannot_stand_in_a_header_is_refused_by_name_and_not_shown(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        MutexSession(key)
    assert KEY not in str(caught.value)


@given(st.text(max_size=20))
def test_only_visible_ascii_makes_a_key(key: str) -> None:
    good = bool(key) and all("!" <= char <= "~" for char in key)
    try:
        assert check_api_key(key) == key
    except ConfigurationError:
        assert not good
    else:
        assert good


def test_no_key_names_both_ways_to_give_one() -> None:
    with pytest.raises(ConfigurationError, match="api_key is missing: pass it, or set AMPLITUDE_MANAGEMENT_API_KEY"):
        MutexSession()


def test_the_key_comes_from_the_environment_if_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "from-environment")
    MutexSession()
    monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "bad\n")
    MutexSession("argument-goes-first")
    with pytest.raises(ConfigurationError, match="api_key"):
        MutexSession()


@pytest.mark.parametrize("region", ["", "US", "eu ", "asia", 5, b"us", ["us"], True])
def test_an_unknown_region_is_refused_by_name(region: Any) -> None:
    with pytest.raises(ConfigurationError, match="region must be 'us' or 'eu', not "):
        MutexSession(KEY, region=region)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "http://experiment.amplitude.com",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://127.0.0.1.evil.com",
        "http://localhost.evil.com",
        "http://[::2]",
        "http://evil.com#localhost",
        "ftp://localhost",
        "file:///etc/passwd",
        "localhost:8080",
        "//localhost",
        "https://",
        "https://user:secret@host",
        "https://user@host",
        "https://host?x=1",
        "https://host#f",
        "https://host:99999999",
        "https://host:port",
        "https://a..b",
        "https://.example.com",
        "https://" + "a" * 64 + ".com",
        "https://" + "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 64 + ".com",
        "http://[::1",
        "",
        5,
        b"https://host",
    ],
)
def test_a_base_url_that_is_not_safe_is_refused_by_name(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        MutexSession(KEY, base_url=url)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "http://localhost:8080",
        "http://LOCALHOST:80/",
        "http://127.0.0.1:1",
        "http://127.9.9.9",
        "http://[::1]:8080",
        "https://example.com",
        "https://example.com.",
        "https://exa_mple",
        "https://\N{LATIN SMALL LETTER U WITH DIAERESIS}.example",
        "https://" + "a" * 63 + ".com",
        "https://[fe80::1%25eth0]",
        "https://example.com:8443/prefix",
    ],
)
def test_https_anywhere_and_http_on_loopback_are_fine(url: str) -> None:
    assert service_url(None, url)[0] == URL(url)


def test_arguments_go_before_the_environment_and_the_us_is_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert service_url(None, None) == (URL(US), "us")
    monkeypatch.setenv("AIOMUTEX_REGION", "eu")
    assert service_url(None, None) == (URL(EU), "eu")
    assert service_url("us", None) == (URL(US), "us")
    monkeypatch.setenv("AIOMUTEX_BASE_URL", "http://localhost:8080")
    assert service_url(None, None) == (URL("http://localhost:8080"), "localhost:8080")
    assert service_url("eu", None) == (URL(EU), "eu")
    assert service_url("eu", "https://other") == (URL("https://other"), "other:443")


def test_a_bad_value_in_the_environment_is_refused_like_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOMUTEX_REGION", "mars")
    with pytest.raises(ConfigurationError, match="region"):
        MutexSession(KEY)
    monkeypatch.setenv("AIOMUTEX_BASE_URL", "http://example.com")
    with pytest.raises(ConfigurationError, match="base_url"):
        MutexSession(KEY)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("max_connections", value) for value in (0, -1, True, 1.0, "1", None)),
        *(("attempt_timeout", value) for value in (0, -1, True, float("inf"), float("nan"), "1", None)),
        *(("deadline", value) for value in (0, -1, True, float("inf"), float("nan"), "1", None)),
        *(("retry", value) for value in (3, "x", object())),
    ],
)
def test_a_bad_option_is_refused_by_name(option: str, value: Any) -> None:
    wrong: dict[str, Any] = {option: value}
    with pytest.raises(ConfigurationError, match=option):
        MutexSession(KEY, **wrong)


class Wrapped:
    """A limiter of a user's own, which passes on what it does not do itself."""

    def __init__(self) -> None:
        self._limiter = LocalRateLimiter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("rate_limiter", LocalRateLimiter, "the class LocalRateLimiter"),
        ("rate_limiter", 100, "int"),
        ("rate_limiter", "100", "str"),
        ("http", aiohttp.ClientSession, "the class ClientSession"),
        ("http", "x", "str"),
        ("http", LocalRateLimiter(), "LocalRateLimiter"),
    ],
)
def test_what_is_no_limiter_or_no_session_of_aiohttp_is_rejected_by_name_and_type(
    option: str, value: Any, told: str
) -> None:
    wrong: dict[str, Any] = {option: value}
    with pytest.raises(ConfigurationError) as caught:
        MutexSession(KEY, **wrong)
    right = {"rate_limiter": "a limiter such as LocalRateLimiter()", "http": "an aiohttp.ClientSession"}
    assert str(caught.value) == f"{option} must be {right[option]}, not {told}"


def test_any_object_that_does_what_a_limiter_does_is_one() -> None:
    limiter: Any = Wrapped()
    assert MutexSession(KEY, rate_limiter=limiter).rate_limiter is limiter


def test_an_unknown_option_is_refused() -> None:
    unknown: dict[str, Any] = {"timeout": 5}
    with pytest.raises(TypeError, match="timeout"):
        MutexSession(KEY, **unknown)


def test_importing_the_core_imports_nothing_of_the_extras_and_no_emulator() -> None:
    script = (
        "import sys, aiomutex\n"
        "heavy = ('click', 'rich', 'redis', 'pytest', 'aiohttp.web', 'sqlite3', 'aiomutex.emulator', 'aiomutex.cli')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    # A measurement of coverage imports things of its own.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=plain)
    assert done.stdout.strip() == "[]"
