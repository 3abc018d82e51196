"""IPv4 headers as nflog hands them over, with scapy as the second opinion."""

from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror, defragment

from microagent.errors import Malformed
from microagent.wire.packet import Packet, parse_ipv4_untrusted, port_unreachable, udp_packets

SRC, DST = "10.43.0.2", "192.0.2.7"


def packet(proto: int, sport: int | None, dport: int | None, length: int) -> Packet:
    return Packet(IPv4Address(SRC), IPv4Address(DST), proto, sport, dport, length)


def test_ports_behind_options() -> None:
    data = bytes(IP(src=SRC, dst=DST, options=b"\x01" * 8) / UDP(sport=1234, dport=53) / b"payload")
    assert parse_ipv4_untrusted(data) == packet(17, 1234, 53, len(data))


def test_a_cut_packet_still_has_its_length() -> None:
    data = bytes(IP(src=SRC, dst=DST) / TCP(sport=1234, dport=443) / bytes(1000))
    assert parse_ipv4_untrusted(data[:40]) == packet(6, 1234, 443, len(data))
    assert parse_ipv4_untrusted(data[:23]) == packet(6, None, None, len(data))


def test_no_ports_where_there_are_none() -> None:
    assert parse_ipv4_untrusted(bytes(IP(src=SRC, dst=DST) / ICMP())) == packet(1, None, None, 28)
    later = bytes(IP(src=SRC, dst=DST, proto=17, frag=185) / bytes(64))
    assert parse_ipv4_untrusted(later) == packet(17, None, None, 84)


@pytest.mark.parametrize(
    "data",
    [b"", bytes(19), b"\x65" + bytes(39), b"\x44" + bytes(39), b"\x45" + bytes(39)],
    ids=["empty", "short", "version 6", "header of 16", "length 0"],
)
def test_what_is_no_ipv4_packet(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_ipv4_untrusted(data)


SERVER = (IPv4Address("203.0.113.123").packed, 123)
GUEST = (IPv4Address("10.43.0.2").packed, 40000)


@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 2960, 2961, 65507])
def test_made_datagrams_are_what_scapy_reads(size: int) -> None:
    payload = bytes(n & 255 for n in range(size))
    made = [IP(packet) for packet in udp_packets(SERVER, GUEST, payload, 7)]
    assert all(len(packet) <= 1500 for packet in made)
    assert {(packet.src, packet.dst, packet.id) for packet in made} == {("203.0.113.123", "10.43.0.2", 7)}
    whole = made[0] if len(made) == 1 else defragment(made)[0]
    assert (whole[UDP].sport, whole[UDP].dport, whole[UDP].len) == (123, 40000, 8 + size)
    assert bytes(whole[UDP].payload) == payload


def test_a_refusal_is_what_scapy_makes() -> None:
    made = IP(port_unreachable(GUEST, SERVER))
    assert (made.src, made.dst) == ("203.0.113.123", "10.43.0.2")
    assert (made[ICMP].type, made[ICMP].code) == (3, 3)
    quoted = made[IPerror]
    assert (quoted.src, quoted.dst, quoted[UDPerror].sport, quoted[UDPerror].dport) == (
        "10.43.0.2",
        "203.0.113.123",
        40000,
        123,
    )
    checksum = made[ICMP].chksum
    del made[ICMP].chksum
    assert IP(bytes(made))[ICMP].chksum == checksum
