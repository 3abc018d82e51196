"""ClientHellos of real clients, whole, in pieces and damaged: we read what OpenSSL's server reads, or refuse."""

import random
import struct
from pathlib import Path

import pytest
from tests.unit.wire.hellos import SNI, Oracle, body, message, records

from microagent.errors import Malformed
from microagent.wire.client_hello import ClientHello, parse_client_hello_untrusted

CAPTURED = {
    file.stem: bytes.fromhex(file.read_text())
    for file in sorted((Path(__file__).parents[2] / "vectors/client_hello").glob("*.hex"))
}
HOST = "api.example.org"
KEY_SHARE = 51
POST_QUANTUM_SHARE = 1216  # X25519MLKEM768, draft-ietf-tls-ecdhe-mlkem


def extensions(hello: bytes) -> list[tuple[int, bytes]]:
    """The extensions of a hello that is one record, in its order."""
    at = 9 + 34
    at += 1 + hello[at]
    at += 2 + struct.unpack_from("!H", hello, at)[0]
    at += 1 + hello[at] + 2
    found = []
    while at < len(hello):
        kind, length = struct.unpack_from("!HH", hello, at)
        found.append((kind, hello[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def read(data: bytes) -> ClientHello | None:
    """What we make of it; None when it is refused or not whole."""
    try:
        return parse_client_hello_untrusted(data)
    except Malformed:
        return None


def second_opinion(data: bytes) -> str | None:
    """The name that OpenSSL's server is asked for, as we spell it; "" when it does not get that far."""
    oracle = Oracle()
    if oracle.feed_whole(data):
        return oracle.name and oracle.name.lower().removesuffix(".")
    return ""


@pytest.mark.parametrize("client", CAPTURED)
def test_a_real_hello_gives_its_name_at_the_byte_where_openssl_has_it(client: str) -> None:
    data = CAPTURED[client]
    oracle = Oracle()
    needed = oracle.feed(data)
    assert (oracle.name or "").lower() == HOST
    for count in range(len(data) + 1):
        found = parse_client_hello_untrusted(data[:count])
        assert (found is not None) == (needed is not None and count >= needed), count
    assert found is not None
    assert found.sni == HOST


@pytest.mark.parametrize("client", CAPTURED)
def test_its_records_and_the_order_of_its_extensions_mean_nothing(client: str) -> None:
    data = CAPTURED[client]
    found = parse_client_hello_untrusted(data)
    for size in (1, 7, 100, 1000):
        assert parse_client_hello_untrusted(records(data[5:], size)) == found
    known = extensions(data)
    for order in (known[::-1], sorted(known, key=lambda extension: -len(extension[1]))):
        # What a key share is worth does not matter here: the name behind it does.
        again = records(message(body(order)))
        assert read(again) == found
        assert second_opinion(again) in (HOST, "")


def test_the_corpus_has_post_quantum_shares_and_the_name_behind_them() -> None:
    large = {
        client: dict(extensions(data))
        for client, data in CAPTURED.items()
        if len(dict(extensions(data)).get(KEY_SHARE, b"")) > POST_QUANTUM_SHARE
    }
    assert len(large) >= 3
    for found in large.values():
        share = (KEY_SHARE, found.pop(KEY_SHARE))
        name = (SNI, found.pop(SNI))
        again = records(message(body([share, *found.items(), name])), 512)
        whole = read(again)
        assert whole is not None
        assert whole.sni == HOST


@pytest.mark.parametrize("client", CAPTURED)
def test_a_damaged_hello_never_has_another_name_for_openssl(client: str) -> None:
    data = CAPTURED[client]
    chance = random.Random(client)
    agreed = 0
    for _ in range(250):
        damaged = _damage(data, chance)
        found = read(damaged)
        if found is None:
            continue  # refused, or waiting for more: nothing is dialled
        theirs = second_opinion(damaged)
        assert theirs in (found.sni, ""), (damaged.hex(), found.sni, theirs)
        agreed += theirs == found.sni
    assert agreed


def _damage(data: bytes, chance: random.Random) -> bytes:
    """One of the ways to make another hello of it."""
    known = extensions(data)
    where = chance.randrange(len(known))
    name = data.index(HOST.encode()) if HOST.encode() in data else len(data) // 2
    at = chance.choice([chance.randrange(len(data)), chance.randrange(name - 9, name + len(HOST)), chance.randrange(9)])
    match chance.randrange(7):
        case 0:
            return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case 2:
            return data[:at] + data[at + chance.randrange(1, 4) :]
        case 3:
            return data[:at] + chance.randbytes(chance.randrange(1, 4)) + data[at:]
        case 4:
            known.insert(chance.randrange(len(known) + 1), known[where])
        case 5:
            del known[where]
        case _:
            chance.shuffle(known)
    return records(message(body(known)), chance.choice([1, 16, 300, 16384]))
