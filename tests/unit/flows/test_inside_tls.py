"""What is inside intercepted TLS is decided by request, or said to be opaque."""

from microagent.decision.verdict import Action, Reason, Verdict
from microagent.flows.http1 import Finish, HttpConversation, ToGuest, ToUpstream, Write
from microagent.flows.inside_tls import InsideTls


def inside() -> InsideTls:
    allowed = Verdict(Action.ALLOW, Reason.NAME_LISTED, host="api.ok.test")
    return InsideTls(lambda: HttpConversation(lambda: allowed, "api.ok.test", 443, "x", "flow1", lambda: "d1"))


def test_http_in_pieces_is_http() -> None:
    talk = inside()
    request = b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
    assert talk.from_guest(request[:3], 0) == []
    effects = talk.from_guest(request[3:], 0)
    assert not talk.opaque
    assert not [effect for effect in effects if isinstance(effect, ToUpstream)]
    assert any(isinstance(effect, ToGuest) and effect.data.startswith(b"HTTP/1.1 403") for effect in effects)


def test_what_cannot_be_http_is_relayed_and_opaque() -> None:
    talk = inside()
    assert talk.from_guest(b"\0\1\2", 0) == [ToUpstream(b"\0\1\2")]
    assert talk.opaque


def test_a_few_letters_before_the_end_are_relayed_and_opaque() -> None:
    talk = inside()
    assert talk.from_guest(b"quit", 0) == []
    assert talk.guest_ended(0) == [ToUpstream(b"quit"), Finish("guest closed")]
    assert (talk.opaque, talk.bytes_out) == (True, 4)


def test_a_server_that_begins_http2_without_alpn_hears_nothing() -> None:
    for said, settings in ((b"", b"\0\0\0\4\0\0\0\0\0"), (b"PRI ", b"\0\0\6\4\0\0\0\0\0\0\4\0\1\0\0")):
        talk = inside()
        assert talk.from_guest(said, 0) == []
        effects = talk.from_upstream(settings, 0)
        effects += talk.from_guest(b"* HTTP/2.0\r\n\r\nSM\r\n\r\n", 0)
        assert not [effect for effect in effects if isinstance(effect, ToUpstream)]
        assert [e.record.fields["reason"] for e in effects if isinstance(e, Write)] == ["upgrade_refused"]
        assert Finish("denied") in effects
    talk = inside()
    assert talk.from_upstream(b"220 hello\r\n", 0) == [ToGuest(b"220 hello\r\n")]
    assert talk.from_guest(b"EHLO x\r\n", 0) == [ToUpstream(b"EHLO x\r\n")]


def test_a_guest_that_ends_without_a_word_is_not_opaque() -> None:
    talk = inside()
    assert talk.guest_ended(0) == [Finish("guest closed")]
    assert not talk.opaque
