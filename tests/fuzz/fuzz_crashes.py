"""Inputs that once broke a promise: the target, what was wrong, and the input."""

from __future__ import annotations

from typing import Final

from support import KEY

_GROUP: Final = b'{"id":7,"key":"k","bucketingSalt":"s","slots":[{"index":1,"percentage":%b,"experiments":[123]}]}'
_CREATE: Final = b'POST /api/1/mutexes\n{"projectId":1,"name":"n","slots":[{"percentage":100,"experiments":["%b"]}]}'
_RESULT: Final = (
    b'{"answers":[["%b",1,[],%b]],"limiter":{"used":1,"per_window":97,"window":1.02,"used_today":1,"per_day":100000,'
    b'"resets_at":"2026-11-24T00:00:00Z","waiting":0,"paused_for":0.0}}'
)
_LEASE: Final = (
    b'{"now":"%b","wait":1,"free":1,"day":20780,"used":5,"permits":97,"taken":1,"paused":false,"probe":false,'
    b'"remaining":0.0,"failed":0,"since":0.0,"suspected":false,"asked":0.0}\n%b'
)
_SAVED: Final = (
    b'{"aiomutexPlan":1,"plan":{"groups":[{"projectId":"1","key":"a","action":"update","groupId":"7","lists":'
    b'[{"slotIndex":1,"field":"experiments","before":[1],"after":[1,"x"]}]}]}}'
)
_PACKED: Final = (
    b"POST /api/1/mutexes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer k\r\nContent-Type: application/json\r\n"
    b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"
)

CRASHES: Final[tuple[tuple[str, str, bytes], ...]] = (
    (
        "page",
        "an offset with thousands of digits",
        b'{"mutexes":[{"id":1,"slots":[]}],"nextCursor":"%b"}' % (b"9" * 5000),
    ),
    ("group", "a percentage beyond any float", _GROUP % (b"9" * 400)),
    ("group", "a percentage whose bar would exceed memory", _GROUP % b"9007199254740992"),
    ("error_response", "a request ID that cannot be printed", b"d\nX-Request-Id: \xff\n\nno"),
    ("error_response", "a location that cannot be printed", b"\x01\nLocation: https://\xff/%b\n\n" % KEY.encode()),
    ("edits_jsonl", "bytes that are not UTF-8 beside an escaped surrogate", b'{"group_id": "\xbd", "id": "\\ud800"}'),
    ("lease", "not JSON", b""),
    ("lease", "no time", _LEASE % (b"later", b"1")),
    ("lease", "an infinite time", _LEASE % (b"inf", b"1")),
    ("lease", "a send time that is not a number", _LEASE % (b"1790000000000000", b"soon")),
    ("fleet_result", "an invalid error", _RESULT % (b"", b"[[],[],{},[[]]]")),
    (
        "fleet_result",
        "an error of another version, without its fields",
        _RESULT % (b"", b'["NotFoundError",["x"],{"resets_at":5},[]]'),
    ),
    ("fleet_result", "a body that is no group", _RESULT % (b"W10=", b"null")),
    ("fleet_result", "a body that is not base64", _RESULT % (b"%", b"null")),
    ("fleet_job", "another request", b'[["/api/1/experiments",null]]'),
    ("fleet_job", "a page without a limit", b'[["/api/1/mutexes",null]]'),
    ("fleet_job", "misplaced brackets", b'[["//[",null]]'),
    ("edits_csv", "a row without its group", b"slot_index,group_id\n1\n"),
    ("edits_csv", "a row that is not UTF-8", b"group_id,slot_index,individuals\n7,1,\xff\n"),
    ("journal_bytes", "a header that is not UTF-8", b"\xfa\xcd\xcd" + b"\xcd" * 240),
    ("journal_rows", "a slot that is a string", b'{"slots":[["7","one",[[1],null,null],1,[[2],null,null],[],0,0]]}'),
    ("journal_rows", "a content that is a number", b'{"slots":[["7",1,5,1,[[2],null,null],[],0,0]]}'),
    ("journal_rows", "a position that is a string", b'{"slots":[["7",1,[[1],null,null],1,[null,null,null],[],"x",0]]}'),
    ("journal_rows", "a total that is a string", b'{"facts":[["total","many"]]}'),
    (
        "desired_json",
        "a project with thousands of digits",
        b'{"groups":[{"projectId":"%b","key":"b","name":"n","slots":[{"percentage":100}]}]}' % (b"9" * 5000),
    ),
    (
        "desired_json",
        "a lone surrogate",
        b'{"groups":[{"projectId":"\\ud800","key":"b"},{"projectId":"\\ud800","key":"b"}]}',
    ),
    ("saved_plan", "an experiment that is a string", _SAVED),
    ("users", "a file that is not UTF-8", b"ada\n\xff\n"),
    ("bucketing", "a lone surrogate, which crashed the interpreter", b"\xff"),
    ("endpoint", "an invalid host name", b"http://xn--?:0"),
    ("endpoint", "misplaced brackets", b"9.p://[::]@/]:"),
    ("service_request", "an experiment with thousands of digits in a string", b"\x02" + _CREATE % (b"9" * 5000)),
    (
        "http_wire",
        "a body that is not gzip, as its header says",
        _PACKED,
    ),
    ("faults", "an infinite storm", b"storm:1%%:%bs" % (b"9" * 400)),
    ("faults", "an infinite latency", b"%bs" % (b"9" * 400)),
    ("state_json", "a slot that is a string", b'[{"slots":["a"]}]'),
    ("state_json", "slots that are a number", b'[{"slots":5}]'),
    ("state_json", "members that are a string", b'[{"slots":[{"individuals":"abc"}]}]'),
    ("state_json", "a name that is a number", b'[{"name":5}]'),
    ("state_json", "a count that is a string", b'{"generated":{"count":"5"},"groups":[]}'),
    ("state_json", "generated groups in a list", b'{"generated":[1],"groups":[]}'),
    ("state_json", "a removed group that never existed", b'{"generated":{"count":1,"removed":["x"]},"groups":[]}'),
    (
        "state_json",
        "more groups than fit in memory",
        b'{"generated":{"count":9223372036854775807,"removed":["3"]},"groups":[]}',
    ),
    ("state_json", "nested too deeply", b"[" * 3000),
    ("state_file", "a page of it overwritten", b"\x00\x00\x64" + b"\xff" * 60),
    ("state_file", "a count that is a string", b'{"generated":{"count":"x","slots":2,"removed":"[]"}}'),
    ("state_file", "a body that is a number", b'{"groups":{"id":"7","body":5}}'),
)
