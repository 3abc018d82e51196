"""What people see: the right words, and nothing that a guest could make of them."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.audit.render import brief, columns, duration, headings, inert, plain, size, verdict

ALLOW: dict[str, Any] = {
    "ts": "2026-01-02T03:04:05.000006Z",
    "event": "egress_allow",
    "host": "api.example.org",
    "dst": "203.0.113.7:443",
    "proto": "tls",
    "tls": "intercept",
    "rule": "allow: api.example.org",
}
REQUEST = {
    "ts": "2026-01-02T03:04:05.000006Z",
    "event": "egress_request",
    "host": "api.example.org",
    "method": "GET",
    "path": "/v1",
    "status": 200,
    "bytes_out": 120,
    "bytes_in": 45_300,
    "duration_ms": 87.4,
}


def test_an_allow() -> None:
    assert columns(ALLOW) == (
        "03:04:05.000006",
        "allow",
        "api.example.org",
        "203.0.113.7:443",
        "tls intercept · rule allow: api.example.org",
        "-",
        "-",
    )


def test_a_request() -> None:
    assert columns(REQUEST)[1:] == ("request", "api.example.org", "-", "200 GET /v1", "↑120 ↓45k", "87ms")


@pytest.mark.parametrize(
    ("record", "word", "what"),
    [
        ({"event": "egress_dns_deny", "qname": "e.test", "qtype": "A", "reason": "r"}, "deny", "dns A · r"),
        (
            {"event": "egress_dns_allow", "qtype": "A", "rcode": 0, "answers": ["192.0.2.1"]},
            "allow",
            "dns A → 192.0.2.1",
        ),
        ({"event": "egress_dns_allow", "qtype": "AAAA", "rcode": 0}, "allow", "dns AAAA → nothing"),
        ({"event": "egress_dns_allow", "qtype": "TXT", "rcode": 0, "ttl": 60}, "allow", "dns TXT → answered"),
        ({"event": "egress_dns_allow", "qtype": "MX", "rcode": 0, "ttl": 0}, "allow", "dns MX → nothing"),
        ({"event": "egress_dns_allow", "qtype": "A", "rcode": 3, "ttl": 0}, "allow", "dns A → no such name"),
        ({"event": "egress_internal_deny", "dst": "10.0.0.1:80", "reason": "r"}, "deny", "r"),
        ({"event": "egress_drop", "what": "ipv6", "packets": 3, "bytes": 210}, "drop", "ipv6"),
        ({"event": "egress_mitm_upstream_error", "error": "expired"}, "error", "expired"),
        ({"event": "gap"}, "error", "gap"),
        ({"event": "mediator_up"}, "info", "mediator_up"),
        (
            {"event": "unreadable_line", "file": "egress.jsonl", "offset": 70, "bytes": 7},
            "error",
            "7 bytes at 70 of egress.jsonl cannot be read",
        ),
        ({"event": "egress_close", "why": "end", "proto": "tcp"}, "close", "tcp · end"),
        ({}, "info", "-"),
    ],
)
def test_verdicts_and_reasons(record: dict[str, Any], word: str, what: str) -> None:
    assert (verdict(record), columns(record)[4]) == (word, what)


def test_columns_stand_under_their_headings() -> None:
    assert headings().index("HOST") == plain(ALLOW).index("api.example.org")
    assert headings().index("DST") == plain(ALLOW).index("203.0.113.7")


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (999, "999"), (1000, "1.0k"), (1234, "1.2k"), (99_950, "100k"), (34_000_000, "34M")]
)
def test_sizes(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0, "0ms"), (999, "999ms"), (1000, "1.0s"), (34_200, "34s"), (300_000, "5m"), (7_300_000, "2h"), (9e8, "10d")],
)
def test_durations(milliseconds: int, shown: str) -> None:
    assert duration(milliseconds) == shown


def test_a_time_that_is_no_number_is_nothing() -> None:
    assert columns({**REQUEST, "duration_ms": float("nan"), "bytes_in": "1"})[-2:] == ("↑120 ↓?", "0ms")


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (ALLOW, "tls intercept · allow: api.example.org"),
        ({"event": "egress_deny", "proto": "http", "reason": "name_not_listed", "hint": "h"}, "name_not_listed · http"),
        ({"event": "egress_allow", "proto": "tcp", "unlisted": True}, "tcp · unlisted"),
        (REQUEST, "200 GET /v1"),
    ],
)
def test_in_few_words(record: dict[str, Any], shown: str) -> None:
    assert brief(record) == shown


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[31mred",
        "\x1b]52;c;AAAA\x07",
        "a\u202eb",
        "a\u2028b",
        "line\nbreak",
        "\u200bzero",
        "\x9b31m",
        "\u05d0\u05d1",
        "a\u0301\u0301",
        "\u3164",
        "\u3000",
        "\ufe0f",
        "\u2066",
        "\U000e0041",
    ],
)
def test_nothing_hostile_reaches_a_terminal(hostile: str) -> None:
    shown = plain({**ALLOW, "host": hostile})
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp") for char in shown)
    assert inert(hostile) in shown


@given(st.dictionaries(st.sampled_from([*ALLOW, *REQUEST, "signal", "reason"]), st.text() | st.integers() | st.none()))
def test_any_record_renders_to_one_line(record: dict[str, Any]) -> None:
    assert "\n" not in plain(record)
    assert "\n" not in inert(brief(record))
