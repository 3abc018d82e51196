"""The host's resolv.conf, and the one that guests get."""

from pathlib import Path

import pytest

from microagent.agent.resolv_conf import ResolvConf, read_resolv_conf
from microagent.errors import HostError


def read(tmp_path: Path, text: str) -> ResolvConf:
    file = tmp_path / "resolv.conf"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    return read_resolv_conf(file)


def searched(tmp_path: Path, text: str) -> tuple[str, ...]:
    return read(tmp_path, f"nameserver 192.0.2.1\n{text}\n").search


def test_resolvers(tmp_path: Path) -> None:
    text = "# nameserver 1.1.1.1\nsearch example.org\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # mine\n"
    assert read(tmp_path, text).resolvers == ("192.0.2.1", "2001:db8::1")


def test_a_resolver_on_a_link_has_the_number_of_its_interface(tmp_path: Path) -> None:
    text = "nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%none\nnameserver fe80::4\n"
    assert read(tmp_path, text).resolvers == ("fe80::1%1", "fe80::2%7", "fe80::4")


def test_what_is_no_address_is_no_resolver(tmp_path: Path) -> None:
    """As for glibc: looking up such a name would hold up a mediator, which has nobody to ask for it."""
    odd = ["dns.example.org", "192.0.2.1%lo", "fe80::1%", "192.0.2.1:53", "[2001:db8::1]", "\udcff", "192.0.2.2"]
    text = "".join(f"nameserver {word}\r\n" for word in odd)
    assert read(tmp_path, text).resolvers == ("192.0.2.2",)


@pytest.mark.parametrize(
    "text", ["", "search example.org\n", "nameserver\n", "nameserver # 192.0.2.1\n", "nameserver dns.example.org\n"]
)
def test_no_resolver(tmp_path: Path, text: str) -> None:
    with pytest.raises(HostError, match="names no resolver"):
        read(tmp_path, text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot read"):
        read_resolv_conf(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("", ()),
        ("search Corp.Example.org. example.org", ("corp.example.org", "example.org")),
        ("domain example.org", ("example.org",)),
        ("search a.test\ndomain b.test", ("b.test",)),
        ("domain b.test\nsearch a.test a.test", ("a.test",)),
        ("search a.test # b.test\n; search c.test", ("a.test",)),
        ("search .", ()),
        ("search a..test 10.0.0.1 a;b.test a$(id).test \udcff.test ⅷ.test \u2028.test b.test", ("b.test",)),
        (f"search {' '.join(f'{n}.test' for n in range(9))}", tuple(f"{n}.test" for n in range(6))),
        (f"search {'a' * 60}.{'b' * 60}.{'c' * 60}.test {'d' * 60}.{'e' * 60}.test f.test", None),
    ],
)
def test_the_search_list_holds_host_names_only_and_not_more_than_libcs_read(
    tmp_path: Path, text: str, search: tuple[str, ...] | None
) -> None:
    found = searched(tmp_path, text)
    if search is None:
        assert [name[-6:] for name in found] == ["c.test", "f.test"]
        assert len(" ".join(found)) < 256
    else:
        assert found == search


@pytest.mark.parametrize(
    ("options", "ndots"),
    [
        ("", 1),
        ("options ndots:5 timeout:3", 5),
        ("options ndots:0", 0),
        ("options ndots:5\noptions edns0", 5),
        ("options ndots:99999999999", 15),
        ("options ndots:-1 ndots: ndots ndots:x ndots:\u0665", 1),
    ],
)
def test_ndots(tmp_path: Path, options: str, ndots: int) -> None:
    assert read(tmp_path, f"nameserver 192.0.2.1\n{options}\n").ndots == ndots


def test_a_guest_gets_the_search_list_and_our_resolver(tmp_path: Path) -> None:
    text = "nameserver 192.0.2.1\nsearch a.test b.test\noptions ndots:5 timeout:9 rotate\n"
    expected = "nameserver 10.43.0.1\nsearch a.test b.test\noptions timeout:1 attempts:1 ndots:5\n"
    assert read(tmp_path, text).for_guest() == expected
    assert ResolvConf(("192.0.2.1",)).for_guest() == "nameserver 10.43.0.1\noptions timeout:1 attempts:1\n"
