"""The answer that ends a connection, in either protocol, in any pieces."""

import json

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived
from h2.settings import SettingCodes

from microagent.flows.last_words import Http1Words, Http2Words
from microagent.wire.http1_reply import deny_response

RESPONSE = deny_response(403, "evil.test", "name_not_listed", "d1", "the policy entry `allow: evil.test`")
GET = [(":method", "GET"), (":scheme", "https"), (":authority", "evil.test"), (":path", "/")]


def ask(method: str = "GET", *, size: int = 1 << 16, window: int = 65535) -> list[Event]:
    """What a client sees that asks once."""
    client, words = H2Connection(H2Configuration(client_side=True)), Http2Words(RESPONSE)
    client.initiate_connection()
    client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
    client.send_headers(1, [(":method", method), *GET[1:]], end_stream=True)
    sent, seen = client.data_to_send(), list[Event]()
    for at in range(0, len(sent), size):
        assert not words.said
        seen += client.receive_data(words.hear_untrusted(sent[at : at + size]))
    assert words.said
    assert words.hear_untrusted(sent) == b""
    return seen


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_a_client_of_http2_reads_the_reason(size: int) -> None:
    seen = ask(size=size)
    (head,) = [e for e in seen if isinstance(e, ResponseReceived)]
    fields = dict(head.headers)
    assert fields[b":status"] == b"403"
    assert fields[b"x-microagent-decision"] == b"d1"
    assert b"connection" not in fields
    (data,) = [e for e in seen if isinstance(e, DataReceived)]
    assert json.loads(data.data)["reason"] == "name_not_listed"
    assert any(isinstance(e, ConnectionTerminated) for e in seen)


def test_head_and_small_windows_get_no_body() -> None:
    for seen in (ask("HEAD"), ask(window=10)):
        assert any(isinstance(e, ResponseReceived) for e in seen)
        assert not [e for e in seen if isinstance(e, DataReceived)]


def test_what_is_not_http2_ends_at_once() -> None:
    words = Http2Words(RESPONSE)
    assert words.hear_untrusted(b"GET / HTTP/1.1\r\n\r\n")[3:4] == b"\x07"  # GOAWAY
    assert words.said


def test_http1_waits_for_the_request() -> None:
    words = Http1Words(RESPONSE)
    assert words.hear_untrusted(b"GET / HTTP/1.1\r\n") == b""
    assert words.hear_untrusted(b"\r\n") == RESPONSE
    assert words.said
    assert Http1Words(RESPONSE).hear_untrusted(b"x" * 65536) == RESPONSE
