"""What a workspace did and was refused, counted without reading anything twice."""

import json
from pathlib import Path
from typing import Any

from microagent.agent.summary import Summary, denied


def append(path: Path, *records: dict[str, Any]) -> None:
    with path.open("a") as log:
        log.writelines(json.dumps(record) + "\n" for record in records)


def test_refusals_are_counted_as_they_come_and_across_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    summary = Summary(path)
    assert summary.look()[:2] == ({"count": 0, "hosts": []}, [])
    append(path, {"event": "egress_deny", "host": "evil.test"}, {"event": "egress_allow", "host": "fine.test"})
    append(path, {"event": "egress_drop", "packets": 9}, {"event": "egress_cap_exceeded", "count": 7})
    assert summary.look()[0] == {"count": 8, "hosts": ["evil.test"]}
    append(path, *({"event": "egress_dns_deny", "qname": f"{name}.test"} for name in "abcd"))
    path.rename(path.with_name("egress.jsonl.1"))
    append(path, {"event": "egress_deny", "dst": "10.0.0.1:80"})
    expected = {"count": 13, "hosts": ["evil.test", "a.test", "b.test"]}
    assert summary.look()[0] == summary.look()[0] == expected == denied(path, "")


def test_a_log_that_was_replaced_is_counted_anew(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    append(path, {"event": "egress_deny", "host": "evil.test"})
    summary = Summary(path)
    assert summary.look()[0]["count"] == 1
    path.rename(tmp_path / "elsewhere")
    append(path, {"event": "egress_deny", "host": "other.test"})
    last = [{"ts": "", "host": "other.test", "reason": "egress_deny"}]
    assert summary.look()[:2] == ({"count": 1, "hosts": ["other.test"]}, last)


def test_the_last_refusals_are_those_of_the_tail_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    summary = Summary(path)
    for number in range(4):
        append(path, {"ts": f"t{number}", "event": "egress_deny", "host": f"h{number}.test", "reason": "not_listed"})
    assert [one["ts"] for one in summary.look()[1]] == ["t0", "t1", "t2", "t3"]
    append(path, {"ts": "t4", "event": "egress_drop", "packets": 9}, {"ts": "t5", "event": "egress_allow"})
    append(path, {"ts": "t6", "event": "egress_cap_exceeded", "dst": "203.0.113.9:80"})
    append(path, {"ts": "t7", "event": "egress_dns_deny", "qname": "q.test", "reason": "budget"})
    assert [tuple(one.values()) for one in summary.look()[1]] == [
        *((f"t{number}", f"h{number}.test", "not_listed") for number in (1, 2, 3)),
        ("t6", "203.0.113.9:80", "egress_cap_exceeded"),
        ("t7", "q.test", "budget"),
    ]


def test_traffic_adds_up_as_the_records_come(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    summary = Summary(path)
    expected = summary.look()[2]
    assert set(expected.values()) == {0}
    # As the mediator writes them, with names that look like events.
    with path.open("a") as log:
        for record in (
            {"event": "egress_dns_allow", "qname": "x_deny"},
            {"event": "egress_dns_allow", "qname": "x_close", "rcode": 0, "answers": ["192.0.2.1"]},
            {"event": "egress_dns_allow", "qname": 'x","event":"egress_allow","rcode":0'},
            # Answered without asking anybody, so with one record each.
            {
                "event": "egress_dns_allow",
                "qname": "h",
                "qtype": "HTTPS",
                "reason": "name_listed",
                "ttl": 0,
                "rcode": 0,
            },
            {"event": "egress_dns_allow", "qname": "s", "qtype": "SVCB", "reason": "name_unlisted", "rcode": 0},
            {
                "event": "egress_dns_allow",
                "qname": "1.in-addr.arpa",
                "qtype": "PTR",
                "reason": "ptr_leased",
                "rcode": 0,
            },
            # A name that says so is asked as any other.
            {"event": "egress_dns_allow", "qname": '"qtype":"HTTPS","reason":"ptr_leased"', "qtype": "A"},
            {"event": "egress_dns_allow", "qname": '"qtype":"HTTPS","reason":"ptr_leased"', "qtype": "A", "rcode": 0},
            {"event": "egress_dns_error", "qname": "y"},
            {"event": "egress_allow", "host": "x_close", "bytes_out": 5},
            {"event": "egress_request", "bytes_out": 9, "bytes_in": 90},
            {"event": "egress_close", "bytes_out": 10, "bytes_in": 500},
        ):
            log.write(json.dumps(record, separators=(",", ":")) + "\n")
    expected |= {"flows_allowed": 1, "questions_allowed": 6, "requests": 1, "bytes_out": 10, "bytes_in": 500}
    assert summary.look()[2] == expected
    append(path, {"event": "egress_udp_allow"}, {"event": "egress_udp_close", "bytes_out": 3, "bytes_in": 4})
    append(path, {"event": "egress_drop", "packets": 9}, {"event": "egress_udp_internal_deny", "count": 6})
    append(path, {"event": "egress_deny"}, {"event": "egress_loop_guard"}, {"event": "egress_cap_exceeded"})
    append(path, {"event": "egress_dns_deny"}, {"event": "egress_cap_exceeded", "limit": "dns_queries_per_second"})
    expected |= {"flows_allowed": 2, "flows_denied": 9, "questions_denied": 2, "dropped_packets": 9}
    expected |= {"bytes_out": 13, "bytes_in": 504}
    refused, _, traffic = summary.look()
    assert traffic == expected
    assert refused["count"] == traffic["flows_denied"] + traffic["questions_denied"]
