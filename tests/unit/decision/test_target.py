"""What may be asked of `policy explain`, and how it is understood."""

import pytest

from microagent.decision.target import parse_target
from microagent.errors import PolicyError


@pytest.mark.parametrize(
    ("text", "proto", "port", "host"),
    [
        ("api.test", "tls", 443, "api.test"),
        ("API.Test.", "tls", 443, "api.test"),
        ("bücher.test", "tls", 443, "xn--bcher-kva.test"),
        ("api.test:443", "tls", 443, "api.test"),
        ("api.test:8443", "tls", 8443, "api.test"),
        ("api.test:80", "http", 80, "api.test"),
        ("api.test:8080", "http", 8080, "api.test"),
        ("db.test:5432", "tcp", 5432, "db.test"),
        ("https://api.test/v1?q#f", "tls", 443, "api.test"),
        ("HTTPS://user:pass@api.test:8443/v1", "tls", 8443, "api.test"),
        ("http://api.test", "http", 80, "api.test"),
        ("http://api.test:8000/", "http", 8000, "api.test"),
        ("https://api.test:80/", "tls", 80, "api.test"),
        ("wss://api.test", "tls", 443, "api.test"),
        ("ws://api.test", "http", 80, "api.test"),
        ("ssh://git@git.test/repo", "tcp", 22, "git.test"),
        ("postgres://db.test:5432/x", "tcp", 5432, "db.test"),
        ("postgresql://db.test/x", "tcp", 5432, "db.test"),
        ("ftp://files.test/", "tcp", 21, "files.test"),
        ("udp://192.0.2.1:443", "udp", 443, "192.0.2.1"),
        ("amqps://mq.test:443/", "tls", 443, "mq.test"),
        ("10.0.0.5", "tls", 443, "10.0.0.5"),
        ("10.0.0.5:22", "tcp", 22, "10.0.0.5"),
        ("2001:db8::7", "tls", 443, "2001:db8::7"),
        ("[2001:db8::7]", "tls", 443, "2001:db8::7"),
        ("[2001:db8::7]:80", "http", 80, "2001:db8::7"),
        ("http://[::1]:65535/", "http", 65535, "::1"),
        ("localhost", "tls", 443, "localhost"),
    ],
)
def test_understood(text: str, proto: str, port: int, host: str) -> None:
    question = parse_target(text)
    assert (question.proto, question.port) == (proto, port)
    assert (question.name or str(question.address)) == host
    assert (question.name is None) != (question.address is None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b.test",
        ".example.org",
        "*.example.org",
        "10.0.0.0/8",
        "010.0.0.1",
        "127.1",
        "api.test:",
        "api.test:0",
        "api.test:65536",
        "api.test:080",
        "api.test:٤",
        "api.test:http",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[api.test]:x",
        "://api.test",
        "https://",
        "https:///path",
        "udp://192.0.2.1",
        "amqps://mq.test/",
        "api.test/path",
        "a" * 300,
        "\ud800.test",
    ],
)
def test_not_understood(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_target(text)
    (problem,) = caught.value.problems
    assert problem.hint.startswith("a target is a name, host:port, a URL or an address")
    assert problem.what.startswith(repr(text)[:20])
    assert len(problem.what) < 200
