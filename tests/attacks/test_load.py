"""A web app on one session, its 200 users and a bulk run, in three processes at the service's limits."""

from __future__ import annotations

import pytest

from benchmarks.load import ALLOWED, loaded
from benchmarks.users import USERS

SECONDS = 10.0


@pytest.mark.deep
def test_a_web_app_serves_200_users_during_a_bulk_run() -> None:
    load = loaded("aiomutex", SECONDS, bulk=True)
    crowd = load.crowd
    print(f"p50 {crowd.quantile(0.5):.0f} ms, {load.note()}; {load.edited}; before {load.before}, after {load.after}")
    assert crowd.errors == []
    assert load.rejected <= 3  # a shared machine may pause for a moment
    assert load.leaks() == []

    assert len(crowd.waits) > USERS
    assert crowd.disconnected
    # The run uses the permits that users leave, and each of its edits succeeds.
    left = ALLOWED * crowd.seconds - len(crowd.waits) - crowd.disconnected
    assert set(load.edited) == {"applied"}
    assert load.edited["applied"] > 0.7 * left

    # Users go first. In one queue with the edits, they would wait as long as the edits do.
    assert crowd.quantile(0.5) < load.behind_the_run() / 4
    assert crowd.quantile(0.99) < load.behind_the_run() / 2
