"""Any request gets a success or a rejection with a message, and a rejection changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomutex.emulator import Dialect, GroupStore
from aiomutex.emulator.responses import Encoder
from aiomutex.emulator.service import COLLECTION, Service
from aiomutex.emulator.storage import document_of

FIELDS = [
    *("projectId", "name", "key", "description", "evaluationMode", "bucketingKey", "bucketingSalt", "slots"),
    *("percentage", "experiments", "holdouts", "individuals", "archive"),
]
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
ANY: st.SearchStrategy[Any] = st.recursive(
    PLAIN | st.sampled_from(["local", "remote"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner),
    max_leaves=12,
)
SLOT = st.fixed_dictionaries(
    {"percentage": st.sampled_from([0, 50, 100])}, optional={"experiments": ANY, "individuals": ANY, "holdouts": ANY}
)
CREATE = st.fixed_dictionaries(
    {"projectId": st.just(1), "name": st.just("n"), "slots": st.lists(SLOT, max_size=3)},
    optional={"key": ANY, "description": ANY, "evaluationMode": ANY, "bucketingKey": ANY},
)
DIALECTS = st.builds(
    Dialect,
    create_lists=st.sampled_from(["typed", "loose"]),
    create_name=st.sampled_from(["required", "optional"]),
    unknown_fields=st.sampled_from(["ignored", "rejected"]),
    slot_patch=st.sampled_from(["replace", "merge"]),
)
REQUESTS = st.sampled_from([("POST", ""), ("PATCH", "/1"), ("PATCH", "/1/slots/1")])


@settings(max_examples=100, deadline=None)
@given(REQUESTS, ANY | CREATE, DIALECTS)
def test_any_body_is_accepted_or_rejected_with_a_message(request: tuple[str, str], body: Any, dialect: Dialect) -> None:
    store = GroupStore(2)
    service = Service(store, Encoder(dialect))
    before = [msgspec.json.encode(document_of(store)["groups"]) for _ in (store["1"], store["2"])][-1]
    method, path = request
    response = service.respond(method, COLLECTION + path, msgspec.json.encode(body), "application/json")
    after = msgspec.json.encode(document_of(store)["groups"])
    if response.status == 200:
        assert len(service.commits) == 1
        # The listing can be encoded and is valid.
        page = service.respond("GET", COLLECTION, b"", "")
        for group in msgspec.json.decode(page.body)["mutexes"]:
            assert sum(slot["percentage"] for slot in group["slots"]) == 100
            assert all(type(number) is int for slot in group["slots"] for number in slot["experiments"])
            assert all(type(user) is str for slot in group["slots"] for user in slot["individuals"])
    else:
        assert response.status == 400
        assert msgspec.json.decode(response.body)["message"]
        assert (after, list(service.commits)) == (before, [])


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=20), st.sampled_from(["GET", "X"]))
def test_any_path_gets_a_response(rest: str, method: str) -> None:
    response = Service(GroupStore(2), Encoder(Dialect())).respond(method, COLLECTION + rest, b"", "")
    assert response.status in {200, 400, 404, 405}
