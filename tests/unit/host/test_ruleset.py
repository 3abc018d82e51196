"""What a policy means for addresses alone."""

from ipaddress import IPv4Address, IPv4Network

from microagent.host.ruleset import Steering
from microagent.policy.model import Mode, Policy, Verb
from microagent.policy.parse import parse_entry


def steering(*entries: str, mode: Mode = Mode.STRICT) -> Steering:
    return Steering.from_policy(mode, Policy(tuple(parse_entry(Verb.ALLOW, e, "test") for e in entries)))


def refused(made: Steering, address: str) -> bool:
    """As the rules read the sets: passable first."""
    ip = IPv4Address(address)
    return any(ip in n for n in made.inside) and not any(ip in n for n in made.passable)


def test_inside_is_refused_by_the_kernel_in_both_modes() -> None:
    for mode in (Mode.GUARDED, Mode.STRICT):
        made = steering(".example.org", mode=mode)
        for address in ("10.0.0.1", "192.168.1.1", "169.254.169.254", "127.0.0.1", "168.63.129.16", "100.64.0.1"):
            assert refused(made, address), address
        assert not refused(made, "203.0.113.10")


def test_an_exact_name_may_be_private_so_the_mediator_decides_there() -> None:
    made = steering("db.example.org")
    assert not refused(made, "10.0.0.1")
    assert refused(made, "169.254.169.254")


def test_an_address_entry_opens_itself_and_nothing_else() -> None:
    made = steering("10.20.0.0/16", "169.254.169.254")
    assert not refused(made, "10.20.3.4")
    assert not refused(made, "169.254.169.254")
    assert refused(made, "10.21.0.1")
    assert refused(made, "169.254.169.253")


def test_off_refuses_nothing_and_still_clears_the_sets() -> None:
    lines = steering(mode=Mode.OFF).script().splitlines()
    assert len(lines) == 7
    assert all(line.startswith(("flush set ip workspace ", "flush set netdev workspace ")) for line in lines)


def test_the_script_holds_networks_and_nothing_else() -> None:
    made = Steering((IPv4Network("192.168.0.0/16"),), (IPv4Network("192.168.128.0/17"),))
    assert [line for line in made.script().splitlines() if not line.startswith("flush ")] == [
        "add element netdev workspace closed { 192.168.0.0/17 }",
        "add element ip workspace inside { 192.168.0.0/16 }",
        "add element ip workspace passable { 192.168.128.0/17 }",
    ]


def test_a_flood_ends_early_only_where_the_rules_behind_would_refuse_it() -> None:
    opened = "169.254.1.0/24"
    for made in (steering(opened, ".example.org"), steering(opened, "10.0.0.0/8"), steering("224.0.0.0/3")):
        (line,) = [
            line for line in made.script().splitlines() if line.startswith("add element netdev workspace closed ")
        ]
        closed = [IPv4Network(word) for word in line.split("{ ")[1].rstrip(" }").split(", ")]
        for network in (*made.inside, *made.passable, IPv4Network("224.0.0.0/4"), IPv4Network("203.0.113.0/24")):
            for address in {
                network[0],
                network[-1],
                network[0] - (int(network[0]) > 0),
                network[network.num_addresses // 2],
            }:
                counted_elsewhere = address.is_multicast or str(address) in ("255.255.255.255", "10.43.0.3")
                expected = refused(made, str(address)) and not counted_elsewhere
                assert any(address in network for network in closed) == expected, address


def test_datagrams_are_hopeless_where_no_name_could_lease_their_address() -> None:
    everything = (IPv4Network("0.0.0.0/0"),)
    assert steering().hopeless == everything
    assert steering("203.0.113.5").hopeless == everything
    assert steering(".sfx.test").hopeless == ()
    assert steering(mode=Mode.GUARDED).hopeless == ()


def test_quic_is_refused_wherever_it_leads_unless_off() -> None:
    assert steering(mode=Mode.GUARDED).refused_ports == (443, 853)
    assert steering(mode=Mode.OFF).refused_ports == ()
