"""The conversation that decides a connection's requests, joined to the services that it asks."""

from typing import TypeVar

from microagent.decision.verdict import Verdict
from microagent.flows.http1 import HttpConversation
from microagent.flows.http2 import Http2Conversation
from microagent.flows.inside_tls import InsideTls
from microagent.flows.tcp import TcpHead
from microagent.mediator.services import Services

_Http = TypeVar("_Http", HttpConversation, Http2Conversation)


def plain(services: Services, head: TcpHead, port: int, name: str) -> HttpConversation:
    """HTTP on a connection without TLS."""
    return _conversation(HttpConversation, services, head, port, name)


def inside_tls(
    services: Services, head: TcpHead, port: int, name: str, protocol: str | None
) -> InsideTls | Http2Conversation:
    """What the server and the guest have agreed on by ALPN; None and http/1.1 are for the first bytes to tell."""
    if protocol == "h2":
        return _conversation(Http2Conversation, services, head, port, name)
    return InsideTls(lambda: plain(services, head, port, name))


def _conversation(kind: type[_Http], services: Services, head: TcpHead, port: int, name: str) -> _Http:
    """A conversation with `name`:`port`, which `head` has decided; each request is decided by the policy of then."""

    def decide() -> Verdict:
        verdict = head.decide_again()
        assert verdict is not None  # noqa: S101  (requests come after the dial)
        return verdict

    return kind(
        decide=decide,
        name=name,
        port=port,
        destination=head.destination,
        flow=head.ident,
        new_id=services.new_id,
        most=services.head_limits,
    )
