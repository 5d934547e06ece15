"""What answers mean: tolerant reading of groups and pages, refusals of any form, Retry-After of any form."""

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
from aiomutex._api.redaction import redactor
from aiomutex._api.responses import Response

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
# Values in the places where a group has others.
NEARLY = st.fixed_dictionaries(
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
    told: dict[str, Any] = msgspec.json.decode(GROUP)
    return msgspec.json.encode({name: value for name, value in (told | other).items() if value is not UNSAID})


def slot(**other: Any) -> bytes:
    told: dict[str, Any] = {"index": 1, "percentage": 100}
    return group(slots=[{name: value for name, value in (told | other).items() if value is not UNSAID}])


UNSAID = object()


# ------------------------------------------------------------------ groups


@pytest.mark.parametrize(("told", "read"), [(7, "7"), ("7", "7"), ("abc", "abc"), (2**60, str(2**60))])
def test_ids_come_out_as_text_whether_numbers_or_strings(told: object, read: str) -> None:
    found = responses.read_group(group(id=told, projectId=told))
    assert (found.id, found.project_id) == (read, read)


@pytest.mark.parametrize("missing", [UNSAID, None])
@pytest.mark.parametrize("field", ["experiments", "holdouts", "individuals", "cohorts"])
def test_absent_and_null_lists_are_empty(field: str, missing: object) -> None:
    [found] = responses.read_group(slot(**{field: missing})).slots
    assert getattr(found, field) == []


@pytest.mark.parametrize("missing", [UNSAID, None])
@pytest.mark.parametrize("field", ["name", "key", "evaluationMode", "bucketingKey", "bucketingSalt", "projectId"])
def test_absent_and_null_texts_are_empty(field: str, missing: object) -> None:
    found = responses.read_group(group(**{field: missing}))
    assert "" in msgspec.structs.astuple(found)


@pytest.mark.parametrize(("told", "read"), [(UNSAID, None), (None, None), ("", ""), ("text", "text")])
def test_a_description_may_be_null_or_absent(told: object, read: str | None) -> None:
    assert responses.read_group(group(description=told)).description == read


@pytest.mark.parametrize(("told", "read"), [(UNSAID, None), (None, None), (True, True), (False, False)])
def test_the_deleted_flag_is_kept_where_it_is_told(told: object, read: bool | None) -> None:
    assert responses.read_group(group(deleted=told)).deleted is read


def test_unknown_fields_are_ignored() -> None:
    told = slot(rollout={"a": [1]})
    assert responses.read_group(told.replace(b'{"id"', b'{"new": [{}], "id"')).id == "7"


def test_percentages_are_never_summed_up_when_reading() -> None:
    slots = [{"index": 1, "percentage": 33.3}, {"index": 2, "percentage": 10}, {"index": 3, "percentage": "20"}]
    found = responses.read_group(group(slots=slots))
    assert [slot.percentage for slot in found.slots] == [33.3, 10, 20]


def test_numbers_written_as_text_or_float_are_numbers_and_ids_of_users_texts() -> None:
    [found] = responses.read_group(slot(experiments=["12", 13.0, 14], index="1", individuals=[5, "u"])).slots
    assert (found.experiments, found.index, found.individuals) == ([12, 13, 14], 1, ["5", "u"])


def test_slots_without_an_index_are_counted() -> None:
    found = responses.read_group(group(slots=[{"percentage": 1}, {"percentage": 2, "index": None}]))
    assert [slot.index for slot in found.slots] == [1, 2]


def test_a_mended_group_equals_the_documented_one() -> None:
    plain = responses.read_group(GROUP)
    odd = GROUP.replace(b'"individuals":[]', b'"individuals":null').replace(b'"percentage":95', b'"percentage":"95"')
    assert responses.read_group(odd) == plain


# ------------------------------------------------------------------ pages


@pytest.mark.parametrize("told", [b"", b',"nextCursor":null', b',"nextCursor":""'])
def test_no_next_cursor_in_any_form_is_the_end(told: bytes) -> None:
    page = responses.read_page(b'{"mutexes":[%s]%s}' % (GROUP, told), None)
    assert page.next_cursor is None
    assert len(page.groups) == 1


@pytest.mark.parametrize(
    ("told", "read"), [(b"0", "0"), (b"1000", "1000"), (b'"1000"', "1000"), (b'"abc="', "abc="), (b"1000.0", "1000")]
)
def test_a_next_cursor_is_read_as_text_in_any_form(told: bytes, read: str) -> None:
    assert responses.read_page(b'{"mutexes":[],"nextCursor":%s}' % told, "5") == GroupPage(
        groups=[], next_cursor=read, cursor="5"
    )


@pytest.mark.parametrize("told", [b'" "', b'"\\n"', b'"\\u00a0\\t"'])
def test_a_next_cursor_of_white_space_is_no_cursor_and_no_end(told: bytes) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"got white space - at `\$.nextCursor`"):
        responses.read_page(b'{"mutexes":[],"nextCursor":%s}' % told, None)


def test_a_page_of_null_is_empty() -> None:
    assert responses.read_page(b'{"mutexes":null}', None).groups == []


def test_one_odd_group_does_not_spoil_its_page() -> None:
    page = responses.read_page(b'{"mutexes":[%s,%s]}' % (GROUP, slot(experiments=None)), None)
    assert [found.id for found in page.groups] == ["7", "7"]


@given(JSON | NEARLY)
def test_reading_any_json_gives_a_group_or_an_error_of_msgspec(told: object) -> None:
    body = msgspec.json.encode(told)
    with contextlib.suppress(msgspec.MsgspecError):
        responses.read_group(body)
    with contextlib.suppress(msgspec.MsgspecError):
        responses.read_page(body, None)
    with contextlib.suppress(msgspec.MsgspecError):
        responses.read_created(body)


@given(st.lists(NEARLY, max_size=3), JSON)
def test_reading_any_page_gives_a_page_or_an_error_of_msgspec(groups: object, cursor: object) -> None:
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
def test_reading_any_bytes_gives_a_group_or_an_error_that_is_caught(body: bytes) -> None:
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        assert isinstance(responses.read_group(body), MutexGroup)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("body", "told"),
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
def test_a_refusal_tells_what_its_body_says(body: bytes, told: str) -> None:
    assert responses.error_from_response(Response(400, {}, body)).detail == told


def test_a_refusal_reads_as_one_line_of_facts() -> None:
    headers = CIMultiDict({"X-Request-Id": "7f3a"})
    path = "/api/1/mutexes/12/slots/3"
    answer = Response(400, headers, b'{"message": "slot 3 does not exist"}', method="PATCH", path=path)
    error = responses.error_from_response(answer).with_attempts(1)
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
def test_any_refusal_is_an_api_error_with_its_status(body: bytes, status: int, headers: dict[str, str]) -> None:
    error = responses.error_from_response(Response(status, headers, body))
    assert isinstance(error, APIError)
    assert error.status == status
    assert isinstance(error, ServerError) == (500 <= status <= 599)
    assert len(str(error)) < 900


@given(JSON)
def test_any_refusal_in_json_is_an_api_error(told: object) -> None:
    assert responses.error_from_response(Response(400, {}, msgspec.json.encode(told))).status == 400


@pytest.mark.parametrize("depth", [10, 300, 900, 990, 5000, 7000])
def test_a_deeply_nested_refusal_is_an_api_error(depth: int) -> None:
    error = responses.error_from_response(Response(400, {}, b'{"error":' * depth + b'"x"' + b"}" * depth))
    assert error.status == 400


def test_whatever_a_refusal_repeats_is_concealed() -> None:
    headers = {"Location": f"https://e/{KEY}", "X-Request-Id": KEY, "Content-Type": KEY}
    for body in (
        KEY.encode(),
        f'{{"message": "{KEY}"}}'.encode(),
        f"<title>{KEY}</title>".encode(),
        b"x" * 4090 + KEY.encode(),
    ):
        for status in (302, 400, 500):
            answer = Response(status, headers, body, redact=redactor(KEY))
            error = responses.error_from_response(answer)
            assert KEY[:6] not in f"{error} {error.body} {error.detail} {error.request_id} {vars(error)} {answer!r}"


@pytest.mark.parametrize("key", [KEY, "k" * 50, "0123456789"])
@pytest.mark.parametrize("form", ["{}", "{} ", "%{}"])
def test_no_part_of_a_key_is_left_where_a_long_refusal_is_cut(key: str, form: str) -> None:
    echo = form.format(key)
    for shift in range(len(echo)):
        body = (b"x" * shift + echo.encode() * 8_000)[: 64 * 2**10]
        shown = responses.error_from_response(Response(400, {}, body, redact=redactor(key))).body
        assert "***" in shown
        assert not set(shown) & (set(key) - {"x"})


def test_an_error_has_the_headers_of_its_response_without_the_key() -> None:
    headers = CIMultiDict({"Retry-After": "7", "X-Echo": f"key {KEY}", f"X-{KEY}": "yes"})
    error = responses.error_from_response(Response(429, headers, b"", redact=redactor(KEY)))
    assert error.headers == {"retry-after": "7", "x-echo": "key ***", "x-***": "yes"}


def test_escapes_that_are_none_break_no_concealing() -> None:
    redact = redactor(KEY)
    odd = f"&#{'9' * 5000}; &#x{'f' * 5000}; &#x99999999; \\u00 \\ % %zz &;"
    assert redact(f"{odd} {KEY} \\") == f"{odd} *** \\"
    assert redact(f"{odd} &#{ord(KEY[0])};{KEY[1:]}").endswith(" ***")


def test_a_long_refusal_without_a_key_is_shown_to_the_full() -> None:
    assert len(Response(400, {}, b"x" * 100_000, redact=redactor(KEY)).text) == 4096


@pytest.mark.parametrize("status", [200, 302, 400])
def test_headers_put_nothing_into_a_message_that_a_terminal_obeys(status: int) -> None:
    odd = "a\u009b31m\u202e\udc80\x1b]0;x\x07"
    answer = Response(status, CIMultiDict({"X-Request-Id": odd, "Content-Type": odd, "Location": odd}), b"<")
    with pytest.raises((APIError, UnexpectedResponseError)) as caught:
        requests.decode_response(requests.get_group(7), answer)
    assert str(caught.value).isprintable()
    assert caught.value.request_id == "a\ufffd31m\ufffd\ufffd\ufffd]0;x\ufffd"


def test_the_repr_of_an_answer_states_facts() -> None:
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
def test_retry_after_is_read_in_seconds_whatever_its_form(value: str, seconds: float | None) -> None:
    assert after(value) == seconds


@pytest.mark.parametrize("minutes", [-10, 0, 10, 60 * 24 * 400])
def test_a_retry_after_date_counts_from_the_answers_own_date_whatever_our_clock_shows(minutes: int) -> None:
    theirs = NOW + timedelta(minutes=minutes)
    headers = {"Date": format_datetime(theirs), "Retry-After": format_datetime(theirs + timedelta(seconds=2))}
    assert responses.retry_after_of(headers, NOW) == 2.0


@pytest.mark.parametrize("date", ["", "now", "Mon, 99 Nov 2026 12:00:30 GMT"])
def test_a_date_that_cannot_be_read_is_none(date: str) -> None:
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
