"""Leaves: one a name, kept while asked for, and not too many new ones."""

import ssl
from datetime import UTC, datetime

from microagent.mediator.bounds import Rate
from microagent.mediator.tls import LeafContexts
from microagent.pki.ca import Issuer, create_ca

CERTIFICATE, KEY = create_ca("lab", datetime.now(UTC))


def leaves(most: int = 2, per_second: int = 100) -> LeafContexts:
    return LeafContexts(Issuer(CERTIFICATE, KEY), most, per_second)


def serial(server: ssl.SSLContext | None) -> str:
    """Which certificate a client is shown, that trusts the CA alone and verifies as strictly as OpenSSL can."""
    assert server is not None
    client = ssl.create_default_context(cadata=CERTIFICATE.decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    theirs, ours = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(ours, theirs, server_hostname="api.ok.test"),
        server.wrap_bio(theirs, ours, server_side=True),
    )
    done = 0
    while done < len(ends):
        done = 0
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
    certificate = ends[0].getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


def test_a_name_has_one_leaf_whatever_is_spoken() -> None:
    made = leaves()
    first = made.for_name("api.ok.test", "http/1.1", now=0.0)
    assert made.for_name("api.ok.test", "http/1.1", now=0.0) is first
    assert serial(first) == serial(made.for_name("api.ok.test", "h2", now=0.0))
    assert serial(first) == serial(made.for_name("api.ok.test", None, now=0.0))


def test_the_name_asked_for_longest_ago_is_forgotten() -> None:
    made = leaves(most=2)
    first = made.for_name("a.test", now=0.0)
    second = made.for_name("b.test", now=0.0)
    assert made.for_name("a.test", now=0.0) is first
    made.for_name("c.test", now=0.0)
    assert made.for_name("a.test", now=0.0) is first
    assert made.for_name("b.test", now=0.0) is not second


def test_new_names_come_at_a_rate_and_known_ones_at_any() -> None:
    made = leaves(most=100, per_second=2)
    known = made.for_name("a.test", now=10.0)
    assert made.for_name("b.test", now=10.0) is not None
    assert made.for_name("c.test", now=10.0) is None
    assert made.for_name("a.test", now=10.0) is known
    assert made.for_name("c.test", now=10.5) is not None
    assert made.for_name("d.test", now=10.5) is None


def test_a_rate_gives_no_more_for_having_waited() -> None:
    rate = Rate(3)
    assert [rate.take(1000.0) for _ in range(4)] == [True, True, True, False]
    assert not rate.take(1000.1)
    assert rate.take(1000.4)
