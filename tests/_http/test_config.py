"""The API key, the region and the base URL: their checks and their fallbacks from the environment."""

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
def test_a_key_that_cannot_be_a_header_is_rejected_and_not_shown(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        MutexSession(key)
    assert KEY not in str(caught.value)


@given(st.text(max_size=20))
def test_a_key_is_visible_ascii(key: str) -> None:
    good = bool(key) and all("!" <= char <= "~" for char in key)
    try:
        assert check_api_key(key) == key
    except ConfigurationError:
        assert not good
    else:
        assert good


def test_the_error_for_a_missing_key_names_both_ways_to_pass_one() -> None:
    with pytest.raises(ConfigurationError, match="api_key is missing: pass it, or set AMPLITUDE_MANAGEMENT_API_KEY"):
        MutexSession()


def test_the_key_comes_from_the_environment_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "from-environment")
    MutexSession()
    monkeypatch.setenv("AMPLITUDE_MANAGEMENT_API_KEY", "bad\n")
    MutexSession("argument-goes-first")
    with pytest.raises(ConfigurationError, match="api_key"):
        MutexSession()


@pytest.mark.parametrize("region", ["", "US", "eu ", "asia", 5, b"us", ["us"], True])
def test_an_unknown_region_is_rejected(region: Any) -> None:
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
def test_an_unsafe_base_url_is_rejected(url: Any) -> None:
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
def test_https_is_allowed_everywhere_and_http_on_loopback(url: str) -> None:
    assert service_url(None, url)[0] == URL(url)


def test_arguments_override_the_environment_and_the_default_is_us(monkeypatch: pytest.MonkeyPatch) -> None:
    assert service_url(None, None) == (URL(US), "us")
    monkeypatch.setenv("AIOMUTEX_REGION", "eu")
    assert service_url(None, None) == (URL(EU), "eu")
    assert service_url("us", None) == (URL(US), "us")
    monkeypatch.setenv("AIOMUTEX_BASE_URL", "http://localhost:8080")
    assert service_url(None, None) == (URL("http://localhost:8080"), "localhost:8080")
    assert service_url("eu", None) == (URL(EU), "eu")
    assert service_url(None, "https://other") == (URL("https://other"), "other:443")
    with pytest.raises(ConfigurationError, match="region and base_url exclude each other"):
        service_url("eu", "https://other")


INSECURE = "http://emulator:8080"


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_plain_http_in_a_network_of_ones_own_is_allowed_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with pytest.raises(ConfigurationError, match="with allow_insecure_http, for an emulator"):
        MutexSession(KEY, base_url=INSECURE)
    if how == "environment":
        monkeypatch.setenv("AIOMUTEX_ALLOW_INSECURE_HTTP", "1")
    with pytest.warns(RuntimeWarning, match="the API key is sent over plain http to emulator:8080") as caught:
        MutexSession(KEY, base_url=INSECURE, allow_insecure_http=how == "argument")
    assert len(caught) == 1
    assert KEY not in str(caught[0].message)


@pytest.mark.parametrize(
    "host", ["experiment.amplitude.com", "experiment.eu.amplitude.com", "AMPLITUDE.com", "x.amplitude.com."]
)
def test_plain_http_to_amplitude_is_never_allowed(host: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url must be https"):
        MutexSession(KEY, base_url=f"http://{host}", allow_insecure_http=True)


async def test_insecure_http_is_not_sent_through_a_proxy() -> None:
    async with aiohttp.ClientSession(proxy="http://127.0.0.1:1") as mine:
        with pytest.warns(RuntimeWarning, match="plain http"):
            session = MutexSession(KEY, base_url=INSECURE, allow_insecure_http=True, http=mine)
        async with session:
            with pytest.raises(ConfigurationError, match="a proxy, which would see the API key"):
                await session.get_group(1)


def test_an_invalid_value_in_the_environment_is_rejected_like_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_an_invalid_option_is_rejected_by_name(option: str, value: Any) -> None:
    wrong: dict[str, Any] = {option: value}
    with pytest.raises(ConfigurationError, match=option):
        MutexSession(KEY, **wrong)


class Wrapped:
    """A limiter by a user that delegates to another one."""

    def __init__(self) -> None:
        self._limiter = LocalRateLimiter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("rate_limiter", LocalRateLimiter, "the class LocalRateLimiter"),
        ("rate_limiter", 100, "int"),
        ("rate_limiter", "100", "str"),
        ("http", aiohttp.ClientSession, "the class ClientSession"),
        ("http", "x", "str"),
        ("http", LocalRateLimiter(), "LocalRateLimiter"),
    ],
)
def test_an_invalid_limiter_or_aiohttp_session_is_rejected_by_type(option: str, value: Any, shown: str) -> None:
    wrong: dict[str, Any] = {option: value}
    with pytest.raises(ConfigurationError) as caught:
        MutexSession(KEY, **wrong)
    expected = {"rate_limiter": "a limiter such as LocalRateLimiter()", "http": "an aiohttp.ClientSession"}
    assert str(caught.value) == f"{option} must be {expected[option]}, not {shown}"


def test_any_object_with_the_methods_of_a_limiter_is_accepted() -> None:
    limiter: Any = Wrapped()
    assert MutexSession(KEY, rate_limiter=limiter).rate_limiter is limiter


def test_an_unknown_option_is_rejected() -> None:
    unknown: dict[str, Any] = {"timeout": 5}
    with pytest.raises(TypeError, match="timeout"):
        MutexSession(KEY, **unknown)


def test_importing_the_core_does_not_import_the_extras_or_the_emulator() -> None:
    script = (
        "import sys, aiomutex\n"
        "heavy = ('click', 'rich', 'redis', 'pytest', 'aiohttp.web', 'sqlite3', 'aiomutex.emulator', 'aiomutex.cli')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    # Measuring coverage imports further modules.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=plain)
    assert done.stdout.strip() == "[]"
