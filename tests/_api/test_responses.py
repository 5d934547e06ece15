"""Decoding responses: groups and pages in any form, error bodies in any form, Retry-After in any form."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from support import GROUP, KEY

from aiomutex import APIError, GroupPage, MutexGroup, ServerError, UnexpectedResponseError
from aiomutex._api import requests, responses
from aiomutex._api.redaction import Redactor
from aiomutex._api.responses import Response

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
# Arbitrary values in the fields of a group.
SIMILAR = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("id", "projectId", "name", "key", "description", "deleted", "slots", "extra"), JSON),
        "slots": st.lists(
            st.fixed_dictionaries(
                {},
                optional=dict.fromkeys(("index", "percentage", "experiments", "individuals", "cohorts", "name"), JSON),
            )
        )
        | JSON,
    },
)


def group(**other: Any) -> bytes:
    fields: dict[str, Any] = msgspec.json.decode(GROUP)
    return msgspec.json.encode({name: value for name, value in (fields | other).items() if value is not ABSENT})


def slot(**other: Any) -> bytes:
    fields: dict[str, Any] = {"index": 1, "percentage": 100}
    return group(slots=[{name: value for name, value in (fields | other).items() if value is not ABSENT}])


ABSENT = object()


# ------------------------------------------------------------------ groups


@pytest.mark.parametrize(("sent", "read"), [(7, "7"), ("7", "7"), ("abc", "abc"), (2**60, str(2**60))])
def test_ids_are_strings_whether_the_service_sends_numbers_or_strings(sent: object, read: str) -> None:
    found = responses.read_group(group(id=sent, projectId=sent))
    assert (found.id, found.project_id) == (read, read)


@pytest.mark.parametrize("missing", [ABSENT, None])
@pytest.mark.parametrize("field", ["experiments", "holdouts", "individuals", "cohorts"])
def test_absent_and_null_lists_are_empty(field: str, missing: object) -> None:
    [found] = responses.read_group(slot(**{field: missing})).slots
    assert getattr(found, field) == []


@pytest.mark.parametrize("missing", [ABSENT, None])
@pytest.mark.parametrize("field", ["name", "key", "evaluationMode", "bucketingKey", "bucketingSalt", "projectId"])
def test_absent_and_null_strings_are_empty(field: str, missing: object) -> None:
    found = responses.read_group(group(**{field: missing}))
    assert "" in msgspec.structs.astuple(found)


@pytest.mark.parametrize(("sent", "read"), [(ABSENT, None), (None, None), ("", ""), ("text", "text")])
def test_a_description_may_be_null_or_absent(sent: object, read: str | None) -> None:
    assert responses.read_group(group(description=sent)).description == read


@pytest.mark.parametrize(("sent", "read"), [(ABSENT, None), (None, None), (True, True), (False, False)])
def test_the_deleted_flag_is_kept_if_the_service_sends_it(sent: object, read: bool | None) -> None:
    assert responses.read_group(group(deleted=sent)).deleted is read


def test_unknown_fields_are_ignored() -> None:
    body = slot(rollout={"a": [1]})
    assert responses.read_group(body.replace(b'{"id"', b'{"new": [{}], "id"')).id == "7"


def test_percentages_need_not_add_up_to_100_when_reading() -> None:
    slots = [{"index": 1, "percentage": 33.3}, {"index": 2, "percentage": 10}, {"index": 3, "percentage": "20"}]
    found = responses.read_group(group(slots=slots))
    assert [slot.percentage for slot in found.slots] == [33.3, 10, 20]


def test_numbers_sent_as_strings_or_floats_become_integers_and_user_ids_become_strings() -> None:
    [found] = responses.read_group(slot(experiments=["12", 13.0, 14], index="1", individuals=[5, "u"])).slots
    assert (found.experiments, found.index, found.individuals) == ([12, 13, 14], 1, ["5", "u"])


def test_slots_without_an_index_are_numbered() -> None:
    found = responses.read_group(group(slots=[{"percentage": 1}, {"percentage": 2, "index": None}]))
    assert [slot.index for slot in found.slots] == [1, 2]


def test_a_normalized_group_equals_the_documented_one() -> None:
    plain = responses.read_group(GROUP)
    odd = GROUP.replace(b'"individuals":[]', b'"individuals":null').replace(b'"percentage":95', b'"percentage":"95"')
    assert responses.read_group(odd) == plain


# ------------------------------------------------------------------ pages


@pytest.mark.parametrize("field", [b"", b',"nextCursor":null', b',"nextCursor":""'])
def test_a_missing_next_cursor_in_any_form_is_the_end(field: bytes) -> None:
    page = responses.read_page(b'{"mutexes":[%s]%s}' % (GROUP, field), None)
    assert page.next_cursor is None
    assert len(page.groups) == 1


@pytest.mark.parametrize(
    ("sent", "read"), [(b"0", "0"), (b"1000", "1000"), (b'"1000"', "1000"), (b'"abc="', "abc="), (b"1000.0", "1000")]
)
def test_a_next_cursor_in_any_form_is_a_string(sent: bytes, read: str) -> None:
    assert responses.read_page(b'{"mutexes":[],"nextCursor":%s}' % sent, "5") == GroupPage(
        groups=[], next_cursor=read, cursor="5"
    )


@pytest.mark.parametrize("cursor", [b'" "', b'"\\n"', b'"\\u00a0\\t"'])
def test_a_next_cursor_of_white_space_is_an_error(cursor: bytes) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"got white space - at `\$.nextCursor`"):
        responses.read_page(b'{"mutexes":[],"nextCursor":%s}' % cursor, None)


def test_a_group_of_a_page_that_is_no_object_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"Expected `object`, got `int` - at `\$.mutexes\[1\]`"):
        responses.read_page(b'{"mutexes":[%s,5]}' % GROUP, None)


def test_a_page_of_null_is_empty() -> None:
    assert responses.read_page(b'{"mutexes":null}', None).groups == []


def test_one_unusual_group_does_not_fail_its_page() -> None:
    page = responses.read_page(b'{"mutexes":[%s,%s]}' % (GROUP, slot(experiments=None)), None)
    assert [found.id for found in page.groups] == ["7", "7"]


@given(JSON | SIMILAR)
def test_decoding_any_json_returns_a_group_or_raises_a_msgspec_error(decoded: object) -> None:
    body = msgspec.json.encode(decoded)
    with contextlib.suppress(msgspec.MsgspecError):
        responses.read_group(body)
    with contextlib.suppress(msgspec.MsgspecError):
        responses.read_page(body, None)
    with contextlib.suppress(msgspec.MsgspecError):
        responses.read_created(body, "k")


@given(st.lists(SIMILAR, max_size=3), JSON)
def test_decoding_any_page_returns_a_page_or_raises_a_msgspec_error(groups: object, cursor: object) -> None:
    body = msgspec.json.encode({"mutexes": groups, "nextCursor": cursor})
    with contextlib.suppress(msgspec.MsgspecError):
        page = responses.read_page(body, None)
        assert all(type(found.id) is str for found in page.groups)
        assert page.next_cursor is None or page.next_cursor


@given(
    st.binary()
    | st.binary(max_size=20).map(lambda cut: GROUP + cut)
    | st.integers(0, len(GROUP)).map(lambda n: GROUP[:n])
)
def test_decoding_any_bytes_returns_a_group_or_raises_an_expected_error(body: bytes) -> None:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        assert isinstance(responses.read_group(body), MutexGroup)


# ------------------------------------------------------------------ error responses


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "an empty body"),
        (b"  \n", "an empty body"),
        (b'{"message": "slot 3 does not exist"}', '"slot 3 does not exist"'),
        (b'{"error": "bad"}', '"bad"'),
        (b'{"error": {"message": "deep"}}', '"deep"'),
        (b'{"error": {"code": 5}, "detail": "later"}', '"later"'),
        (b'{"errorMessage": "em"}', '"em"'),
        (b'{"code": 400}', '"{"code": 400}"'),
        (b'{"message": ""}', '"{"message": ""}"'),
        (b'"just text"', '"just text"'),
        (b"just text", '"just text"'),
        (b"two\r\n  lines", '"two lines"'),
        (b"[1, 2]", '"[1, 2]"'),
        (b"<html><title> Gateway </title>", "an HTML page, 'Gateway'"),
        (b"<html><body><h1>Nope</h1>", "an HTML page, 'Nope'"),
        (b"<p>", "an HTML page"),
        (b"\xff\xfe", '"\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"'),
        (b"x" * 1000, '"' + "x" * 300 + '\N{HORIZONTAL ELLIPSIS}"'),
    ],
)
def test_an_error_shows_the_message_of_its_body(body: bytes, detail: str) -> None:
    assert responses.error_from_response(Response(400, {}, body)).detail == detail


def test_an_error_message_is_one_line_of_facts() -> None:
    headers = CIMultiDict({"X-Request-Id": "7f3a"})
    path = "/api/1/mutexes/12/slots/3"
    response = Response(400, headers, b'{"message": "slot 3 does not exist"}', method="PATCH", path=path)
    error = responses.error_from_response(response).with_attempts(1)
    assert str(error) == (
        'PATCH /api/1/mutexes/12/slots/3 answered 400: "slot 3 does not exist" (request id 7f3a, 1 attempt)'
    )


@pytest.mark.parametrize("name", ["X-Request-Id", "request-id", "x-amzn-requestid", "X-Correlation-ID", "x-amz-cf-id"])
def test_the_usual_request_id_headers_are_known(name: str) -> None:
    assert responses.error_from_response(Response(500, CIMultiDict({name: "id" * 200}), b"")).request_id == "id" * 100


@given(
    st.binary(),
    st.integers(100, 999),
    st.dictionaries(st.sampled_from(["Retry-After", "Location", "X-Request-Id"]), st.text()),
)
def test_any_error_response_is_an_api_error_with_its_status(body: bytes, status: int, headers: dict[str, str]) -> None:
    error = responses.error_from_response(Response(status, headers, body))
    assert isinstance(error, APIError)
    assert error.status == status
    assert isinstance(error, ServerError) == (500 <= status <= 599)
    assert len(str(error)) < 900


@given(JSON)
def test_any_error_response_in_json_is_an_api_error(decoded: object) -> None:
    assert responses.error_from_response(Response(400, {}, msgspec.json.encode(decoded))).status == 400


@pytest.mark.parametrize("depth", [10, 300, 900, 990, 5000, 7000])
def test_a_deeply_nested_error_body_is_an_api_error(depth: int) -> None:
    error = responses.error_from_response(Response(400, {}, b'{"error":' * depth + b'"x"' + b"}" * depth))
    assert error.status == 400


def test_the_key_is_redacted_wherever_an_error_response_repeats_it() -> None:
    headers = {"Location": f"https://e/{KEY}", "X-Request-Id": KEY, "Content-Type": KEY}
    for body in (
        KEY.encode(),
        f'{{"message": "{KEY}"}}'.encode(),
        f"<title>{KEY}</title>".encode(),
        b"x" * 4090 + KEY.encode(),
    ):
        for status in (302, 400, 500):
            response = Response(status, headers, body, redact=Redactor(KEY))
            error = responses.error_from_response(response)
            assert KEY[:6] not in f"{error} {error.body} {error.detail} {error.request_id} {vars(error)} {response!r}"


@pytest.mark.parametrize("key", [KEY, "k" * 50, "0123456789"])
@pytest.mark.parametrize("form", ["{}", "{} ", "%{}"])
def test_no_part_of_a_key_is_left_where_a_long_error_body_is_cut(key: str, form: str) -> None:
    echo = form.format(key)
    for shift in range(len(echo)):
        body = (b"x" * shift + echo.encode() * 8_000)[: 64 * 2**10]
        shown = responses.error_from_response(Response(400, {}, body, redact=Redactor(key))).body
        assert "***" in shown
        assert not set(shown) & (set(key) - {"x"})


def test_an_error_has_the_headers_of_its_response_without_the_key() -> None:
    headers = CIMultiDict({"Retry-After": "7", "X-Echo": f"key {KEY}", f"X-{KEY}": "yes"})
    error = responses.error_from_response(Response(429, headers, b"", redact=Redactor(KEY)))
    assert error.headers == {"retry-after": "7", "x-echo": "key ***", "x-***": "yes"}


def test_invalid_escapes_do_not_prevent_redaction() -> None:
    redact = Redactor(KEY)
    odd = f"&#{'9' * 5000}; &#x{'f' * 5000}; &#x99999999; \\u00 \\ % %zz &;"
    assert redact(f"{odd} {KEY} \\") == f"{odd} *** \\"
    assert redact(f"{odd} &#{ord(KEY[0])};{KEY[1:]}").endswith(" ***")


def test_a_long_error_body_without_a_key_is_shown_up_to_the_maximum() -> None:
    assert len(Response(400, {}, b"x" * 100_000, redact=Redactor(KEY)).text) == 4096


@pytest.mark.parametrize("status", [200, 302, 400])
def test_control_characters_of_headers_do_not_reach_a_message(status: int) -> None:
    odd = "a\u009b31m\u202e\udc80\x1b]0;x\x07"
    response = Response(status, CIMultiDict({"X-Request-Id": odd, "Content-Type": odd, "Location": odd}), b"<")
    with pytest.raises((APIError, UnexpectedResponseError)) as caught:
        requests.decode_response(requests.get_group(7), response)
    assert str(caught.value).isprintable()
    assert caught.value.request_id == "a\ufffd31m\ufffd\ufffd\ufffd]0;x\ufffd"


def test_the_repr_of_a_response_states_facts() -> None:
    assert repr(Response(200, {"A": KEY}, b"x" * 1234)) == "<Response 200 · 1,234 bytes>"


# ------------------------------------------------------------------ Retry-After


def after(value: str, now: datetime = NOW) -> float | None:
    return responses.retry_after_of(CIMultiDict({"retry-after": value}), now)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        (" 5 ", 5.0),
        ("1.5", 1.5),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 13:00:30 +0100", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("Monday, 23-Nov-26 12:01:00 GMT", 60.0),
        ("Mon Nov 23 12:01:00 2026", 60.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1e9", None),
        ("NaN", None),
        ("inf", None),
        ("0x10", None),
        ("1_000", None),
        ("5, 6", None),
        ("9" * 13, None),
        ("Mon, 99 Nov 2026 12:00:30 GMT", None),
        ("Mon, 23 Nov 9999999999 12:00:30 GMT", None),
        ("\N{ARABIC-INDIC DIGIT FIVE}", None),
    ],
)
def test_retry_after_is_parsed_as_seconds_in_any_form(value: str, seconds: float | None) -> None:
    assert after(value) == seconds


@pytest.mark.parametrize("minutes", [-10, 0, 10, 60 * 24 * 400])
def test_a_retry_after_date_counts_from_the_date_of_the_response_whatever_the_local_clock_shows(minutes: int) -> None:
    date = NOW + timedelta(minutes=minutes)
    headers = {"Date": format_datetime(date), "Retry-After": format_datetime(date + timedelta(seconds=2))}
    assert responses.retry_after_of(headers, NOW) == 2.0


@pytest.mark.parametrize("date", ["", "now", "Mon, 99 Nov 2026 12:00:30 GMT"])
def test_a_date_that_cannot_be_parsed_is_ignored(date: str) -> None:
    headers = {"Date": date, "Retry-After": format_datetime(NOW + timedelta(seconds=2))}
    assert responses.retry_after_of(headers, NOW) == 2.0


def test_no_retry_after_is_none() -> None:
    assert responses.retry_after_of({}) is None


@given(st.integers(-10_000, 10_000_000))
def test_a_retry_after_date_is_the_seconds_until_then_and_never_negative(seconds: int) -> None:
    assert after(format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)) == max(0, seconds)


@given(
    st.text()
    | st.from_regex(r"(Mon, )?[0-9]{1,5} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{1,9} ?[+-]?[0-9A-Z]{0,12}", fullmatch=True)
)
def test_any_retry_after_is_none_or_seconds_from_0(value: str) -> None:
    seconds = responses.retry_after_of({"Retry-After": value})
    assert seconds is None or seconds >= 0
