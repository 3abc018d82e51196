"""A relayed connection is ended when it idles or has moved more than its share, and not before."""

import socket
from dataclasses import dataclass

from microagent.api.limits import Limits
from microagent.mediator.bounds import Bounds, pace
from microagent.mediator.reactor import Reactor


@dataclass
class Moved:
    """A relay's counters."""

    bytes_out: int = 0
    bytes_in: int = 0


def fail(where: str, error: Exception) -> None:
    raise AssertionError(where) from error


def exceeded(limits: Limits, moved: Moved) -> list[tuple[str, int]]:
    """What was said within three seconds."""
    reactor = Reactor(fail)
    said: list[tuple[str, int]] = []

    def hear(limit: str, most: int) -> None:
        said.append((limit, most))
        reactor.stop()

    bounds = Bounds(reactor, limits, moved, hear)
    reactor.later(3.0, reactor.stop)
    reactor.run()
    bounds.stop()
    return said


def test_an_idle_connection() -> None:
    assert exceeded(Limits(tcp_idle_seconds=1), Moved(5, 5)) == [("tcp_idle_seconds", 1)]


def test_a_greedy_connection() -> None:
    assert exceeded(Limits(connection_bytes=9), Moved(5, 5)) == [("connection_bytes", 9)]


def test_a_modest_one() -> None:
    assert exceeded(Limits(connection_bytes=10, tcp_idle_seconds=60), Moved(5, 5)) == []


def test_the_kernel_takes_the_rate() -> None:
    with socket.socket() as sock:
        pace(Limits(connection_bytes_per_second=1000), sock)
        assert int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 47, 8), "little") == 1000
