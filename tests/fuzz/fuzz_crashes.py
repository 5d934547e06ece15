"""Inputs that broke a promise once, by target and by what went wrong."""

from __future__ import annotations

from typing import Final

from support import KEY

_GROUP: Final = b'{"id":7,"key":"k","bucketingSalt":"s","slots":[{"index":1,"percentage":%b,"experiments":[123]}]}'
_CREATE: Final = b'POST /api/1/mutexes\n{"projectId":1,"name":"n","slots":[{"percentage":100,"experiments":["%b"]}]}'
_TOLD: Final = b'{"told":[[%b,"failed",1,"",%b],[1,"applied",1,"",null]],"stopped_by":null}'
_LEASE: Final = (
    b'{"now":"%b","wait":1,"free":1,"day":20780,"used":5,"permits":97,"taken":1,"paused":false,"probe":false,'
    b'"remaining":0.0,"failed":0,"since":0.0,"suspected":false,"asked":0.0}\n%b'
)
_SAVED: Final = (
    b'{"aiomutexPlan":1,"plan":{"groups":[{"projectId":"1","key":"a","action":"update","groupId":"7","lists":'
    b'[{"slotIndex":1,"field":"experiments","before":[1],"after":[1,"x"]}]}]}}'
)
_PACKED: Final = (
    b"POST /api/1/mutexes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Type: application/json\r\n"
    b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"
)

CRASHES: Final[tuple[tuple[str, str, bytes], ...]] = (
    (
        "page",
        "an offset of thousands of digits",
        b'{"mutexes":[{"id":1,"slots":[]}],"nextCursor":"%b"}' % (b"9" * 5000),
    ),
    ("group", "a share that no float can hold", _GROUP % (b"9" * 400)),
    ("group", "a share as long as memory", _GROUP % b"9007199254740992"),
    ("refusal", "a request id that nothing can print", b"d\nX-Request-Id: \xff\n\nno"),
    ("refusal", "a place that nothing can print", b"\x01\nLocation: https://\xff/%b\n\n" % KEY.encode()),
    ("lease", "no JSON", b""),
    ("lease", "no time", _LEASE % (b"later", b"1")),
    ("lease", "a time that never comes", _LEASE % (b"inf", b"1")),
    ("lease", "a send time that is no number", _LEASE % (b"1790000000000000", b"soon")),
    ("fleet_answer", "an error that is none", _TOLD % (b"0", b'{"kind":[],"earlier":[[]]}')),
    (
        "fleet_answer",
        "an error of another version, without its fields",
        _TOLD % (b"0", b'{"kind":"NotFoundError","args":["x"],"fields":{"resets_at":5},"earlier":[]}'),
    ),
    ("fleet_answer", "an edit counted from the end", _TOLD % (b"-1", b"null")),
    ("fleet_answer", "an edit told twice", _TOLD % (b"1", b"null")),
    ("edits_csv", "a line that ends before its group", b"slot_index,group_id\n1\n"),
    ("edits_csv", "a line that is not UTF-8", b"group_id,slot_index,individuals\n7,1,\xff\n"),
    ("journal_bytes", "a header that is not UTF-8", b"\xfa\xcd\xcd" + b"\xcd" * 240),
    ("journal_rows", "a slot called by a text", b'{"slots":[["7","one",[[1],null,null],[[2],null,null],null,1,0,0]]}'),
    ("journal_rows", "a content that is a number", b'{"slots":[["7",1,5,[[2],null,null],null,1,0,0]]}'),
    ("journal_rows", "a position that is a text", b'{"slots":[["7",1,[[1],null,null],null,null,1,"x",0]]}'),
    ("journal_rows", "a total that is a text", b'{"facts":[["total","many"]]}'),
    (
        "desired_json",
        "a project of thousands of digits",
        b'{"groups":[{"projectId":"%b","key":"b","name":"n","slots":[{"percentage":100}]}]}' % (b"9" * 5000),
    ),
    (
        "desired_json",
        "half of a surrogate pair",
        b'{"groups":[{"projectId":"\\ud800","key":"b"},{"projectId":"\\ud800","key":"b"}]}',
    ),
    ("saved_plan", "an experiment that is a text", _SAVED),
    ("users", "a file that is not UTF-8", b"ada\n\xff\n"),
    ("bucketing", "half of a surrogate pair, which ended the interpreter", b"\xff"),
    ("endpoint", "a host that is no name", b"http://xn--?:0"),
    ("endpoint", "brackets that lead nowhere", b"9.p://[::]@/]:"),
    ("service_request", "an experiment of thousands of digits in a text", b"\x02" + _CREATE % (b"9" * 5000)),
    (
        "http_wire",
        "a body that is not packed as it says",
        _PACKED,
    ),
    ("faults", "a storm without end", b"storm:1%%:%bs" % (b"9" * 400)),
    ("faults", "an answer that never comes", b"%bs" % (b"9" * 400)),
    ("state_json", "a slot that is a text", b'[{"slots":["a"]}]'),
    ("state_json", "slots that are a number", b'[{"slots":5}]'),
    ("state_json", "members that are a text", b'[{"slots":[{"individuals":"abc"}]}]'),
    ("state_json", "a name that is a number", b'[{"name":5}]'),
    ("state_json", "a count that is a text", b'{"generated":{"count":"5"},"groups":[]}'),
    ("state_json", "generated groups in a list", b'{"generated":[1],"groups":[]}'),
    ("state_json", "a group removed that never was", b'{"generated":{"count":1,"removed":["x"]},"groups":[]}'),
    (
        "state_json",
        "more groups than there is memory",
        b'{"generated":{"count":9223372036854775807,"removed":["3"]},"groups":[]}',
    ),
    ("state_json", "nested too deeply", b"[" * 3000),
    ("state_file", "a page of it overwritten", b"\x00\x00\x64" + b"\xff" * 60),
    ("state_file", "a count that is a text", b'{"generated":{"count":"x","slots":2,"removed":"[]"}}'),
    ("state_file", "a body that is a number", b'{"groups":{"id":"7","body":5}}'),
)
