"""Denials, read back by h11."""

import json

import h11
import pytest

from microagent.wire.http1_reply import deny_body, deny_response

EVIL = 'x\r\nSet-Cookie: a=b\r\n\r\n<script>"\u2028\x1b[31m\udcff'


def read(response: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """The response and its body, as h11's client reads them up to the end of the connection."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(response)
    connection.receive_data(b"")
    head = connection.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return head, body


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, "bad_request"), (403, "egress_denied"), (502, "upstream_failed"), (504, "upstream_timeout")],
)
def test_a_denial_says_who_why_and_what_to_do(status: int, error: str) -> None:
    head, body = read(deny_response(status, "evil.example", "name_not_listed", "d-1", "ask for it"))
    assert head.status_code == status
    fields = dict(head.headers)
    assert fields[b"content-type"] == b"application/json"
    assert fields[b"x-microagent-decision"] == b"d-1"
    assert fields[b"connection"] == b"close"
    assert json.loads(body) == {
        "error": error,
        "host": "evil.example",
        "reason": "name_not_listed",
        "decision": "d-1",
        "hint": "ask for it",
    }


def test_the_bytes_of_a_guest_stay_in_the_body_and_are_escaped() -> None:
    head, body = read(deny_response(403, EVIL, EVIL, "d-1", EVIL))
    assert {name for name, _ in head.headers}.isdisjoint({b"set-cookie"})
    assert json.loads(body)["host"] == EVIL
    assert all(32 <= byte < 127 for byte in body[:-1])
    assert body == deny_body(403, EVIL, EVIL, "d-1", EVIL)


def test_head_gets_no_body() -> None:
    response = deny_response(403, "x", "y", "d-1", "z", head_only=True)
    assert response.endswith(b"\r\n\r\n")
    assert read(response, "HEAD")[1] == b""


@pytest.mark.parametrize("decision", ["", "a b", "a\r\nb", "é", "x" * 65])
def test_a_decision_id_is_ours(decision: str) -> None:
    with pytest.raises(ValueError, match="decision id"):
        deny_response(403, "x", "y", decision, "z")
