"""What a failed pull is taken for: skopeo's own words, as it has said them."""

import pytest

from microagent.api.reference import parse_reference
from microagent.errors import ApiError, HostError
from microagent.guests.skopeo import explain, message_of
from microagent.guests.tools import failed

REF = parse_reference("registry.example.org/team/tool:v1")
_PING = 'pinging container registry registry.example.org: Get \\"https://registry.example.org/v2/\\": '


def said(message: str) -> bytes:
    prefix = 'Error parsing image name \\"docker://registry.example.org/team/tool:v1\\": '
    return f'time="2026-01-01T00:00:00Z" level=fatal msg="{prefix}{message}"\n'.encode()


@pytest.mark.parametrize(
    ("message", "code", "what", "hint"),
    [
        (
            "reading manifest v1 in registry.example.org/team/tool: manifest unknown: manifest unknown",
            "not_found",
            "v1",
            "spelling",
        ),
        (
            "reading manifest v1 in x: name unknown: repository name not known to registry",
            "not_found",
            "v1",
            "spelling",
        ),
        ("reading manifest v1 in x: unauthorized: authentication required", "failed", "does not let", "docker login"),
        (
            "reading manifest v1 in x: denied: requested access to the resource is denied",
            "failed",
            "does not",
            "docker login",
        ),
        (f"{_PING}http: server gave HTTP response to HTTPS client", "failed", "speak TLS", "--insecure-registry"),
        (f"{_PING}x509: certificate signed by unknown authority", "failed", "trusted", "certs.d/registry.example.org"),
        (f"{_PING}dial tcp: lookup registry.example.org: no such host", "failed", "there is no registry", "spelling"),
        (f"{_PING}dial tcp 192.0.2.1:443: connect: connection refused", "busy", "does not answer", "later"),
        (f"{_PING}dial tcp 192.0.2.1:443: i/o timeout", "busy", "does not answer", "later"),
        (
            f"{_PING}dial tcp: lookup registry.example.org on 192.0.2.53:53: server misbehaving",
            "busy",
            "not answer",
            "later",
        ),
        ("reading manifest v1 in x: StatusCode: 429, {}", "busy", "does not answer", "later"),
        ("reading manifest v1 in x: toomanyrequests: pull rate limit", "busy", "does not answer", "later"),
        (
            "reading manifest v1 in x: received unexpected HTTP status: 503 Service Unavailable",
            "busy",
            "not answer",
            "later",
        ),
        ("something that nobody has thought of", "failed", "cannot be pulled: something", ""),
    ],
)
def test_whose_fault_it_is_and_what_to_do(message: str, code: str, what: str, hint: str) -> None:
    error = explain(REF, failed("skopeo", said(message), 1))
    assert isinstance(error, ApiError)
    assert (error.code, what in error.what, hint in error.hint) == (code, True, True), (error.what, error.hint)


def test_a_full_disk_is_the_machines() -> None:
    error = explain(REF, failed("skopeo", said("writing blob: write /x: no space left on device"), 1))
    assert isinstance(error, HostError)
    assert "free some space" in error.hint


def test_the_log_around_a_message_is_left_out() -> None:
    assert message_of(said('a \\"quoted\\" \\\\ word').decode()) == 'a "quoted" \\ word'
    assert message_of("no log at all") == "no log at all"
