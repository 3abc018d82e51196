"""What a workspace was refused, counted without reading anything twice."""

import json
from pathlib import Path
from typing import Any

from microagent.agent.summary import Refusals, denied


def append(path: Path, *records: dict[str, Any]) -> None:
    with path.open("a") as log:
        log.writelines(json.dumps(record) + "\n" for record in records)


def test_refusals_are_counted_as_they_come_and_across_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    refusals = Refusals(path)
    assert refusals.count() == ({"count": 0, "hosts": []}, [])
    append(path, {"event": "egress_deny", "host": "evil.test"}, {"event": "egress_allow", "host": "fine.test"})
    append(path, {"event": "egress_drop", "packets": 9}, {"event": "egress_cap_exceeded", "count": 7})
    assert refusals.count()[0] == {"count": 8, "hosts": ["evil.test"]}
    append(path, *({"event": "egress_dns_deny", "qname": f"{name}.test"} for name in "abcd"))
    path.rename(path.with_name("egress.jsonl.1"))
    append(path, {"event": "egress_deny", "dst": "10.0.0.1:80"})
    expected = {"count": 13, "hosts": ["evil.test", "a.test", "b.test"]}
    assert refusals.count()[0] == refusals.count()[0] == expected == denied(path, "")


def test_a_log_that_was_replaced_is_counted_anew(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    append(path, {"event": "egress_deny", "host": "evil.test"})
    refusals = Refusals(path)
    assert refusals.count()[0]["count"] == 1
    path.rename(tmp_path / "elsewhere")
    append(path, {"event": "egress_deny", "host": "other.test"})
    last = [{"ts": "", "host": "other.test", "reason": "egress_deny"}]
    assert refusals.count() == ({"count": 1, "hosts": ["other.test"]}, last)


def test_the_last_refusals_are_those_of_the_tail_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    refusals = Refusals(path)
    for number in range(4):
        append(path, {"ts": f"t{number}", "event": "egress_deny", "host": f"h{number}.test", "reason": "not_listed"})
    assert [one["ts"] for one in refusals.count()[1]] == ["t0", "t1", "t2", "t3"]
    append(path, {"ts": "t4", "event": "egress_drop", "packets": 9}, {"ts": "t5", "event": "egress_allow"})
    append(path, {"ts": "t6", "event": "egress_cap_exceeded", "dst": "203.0.113.9:80"})
    append(path, {"ts": "t7", "event": "egress_dns_deny", "qname": "q.test", "reason": "budget"})
    assert [tuple(one.values()) for one in refusals.count()[1]] == [
        *((f"t{number}", f"h{number}.test", "not_listed") for number in (1, 2, 3)),
        ("t6", "203.0.113.9:80", "egress_cap_exceeded"),
        ("t7", "q.test", "budget"),
    ]
