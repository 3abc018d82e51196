"""Writes `address_table.py` from `special_purpose.csv`: `python make_address_table.py` in this folder.

The CSV holds the published rows of IANA's IPv4 and IPv6 special-purpose address registries
(https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry; RFC 6890, RFC 8190),
less the columns nobody here asks for. When IANA adds a row, add it there and run this; a test compares the two.

What a row becomes:
- globally reachable, or documentation: no row, it is public (test networks use documentation prefixes);
- a form that carries an IPv4 address: no row, `addresses.decode` looks at what it carries;
- private use, shared address space, benchmarking, unique-local: private;
- anything else that is not globally reachable: never by name. Globally reachable holes in such a block stay
  closed: they are anycast addresses of protocols, no host lives there, and a hole is one more thing to get wrong.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

HERE = Path(__file__).parent

Network = IPv4Network | IPv6Network

PRIVATE = {
    "Private-Use": "RFC 1918",
    "Shared Address Space": "shared address space",
    "Benchmarking": "benchmarking",
    "Unique-Local": "unique local",
}
# Decoded before the table is asked. 64:ff9b:1::/48 is not here: what of it cannot be decoded is refused by its row.
CARRIES_IPV4 = {"::ffff:0:0/96", "64:ff9b::/96", "2001::/32", "2002::/16"}
PLAINER = {
    "This network": "this network",
    "This host on this network": "unspecified",
    "Unspecified Address": "unspecified",
    "Loopback": "loopback",
    "Loopback Address": "loopback",
    "Link-Local Unicast": "link-local",
    "Link Local": "link-local",
    "Limited Broadcast": "broadcast",
    "Reserved": "reserved",
    "IPv4-IPv6 Translat.": "IPv4-IPv6 translation",
    "Deprecated (6to4 Relay Anycast)": "6to4 relay anycast",
    "Deprecated (previously ORCHID)": "ORCHID",
}
# What other registries and the clouds say: (block, kind, what).
BESIDES = (
    ("224.0.0.0/4", "never_by_name", "multicast"),  # RFC 5771
    ("ff00::/8", "never_by_name", "multicast"),  # RFC 4291
    ("fec0::/10", "private", "site-local"),  # RFC 3879: deprecated, but some network still routes it
    ("169.254.169.254/32", "never_by_name", "metadata"),  # nearly every cloud
    ("fd00:ec2::254/128", "never_by_name", "metadata"),  # Amazon, over IPv6
    ("168.63.129.16/32", "never_by_name", "metadata"),  # Azure, in the public range
    ("100.100.100.200/32", "never_by_name", "metadata"),  # Alibaba
    ("192.0.0.192/32", "never_by_name", "metadata"),  # Oracle
)


def judged(rows: Iterable[Mapping[str, str]]) -> Iterator[tuple[Network, str, str]]:
    """(block, kind, what) for each registry row that is not public, and for BESIDES."""
    for row in rows:
        name, block = row["name"], ip_network(row["block"])
        public = row["globally_reachable"] == "True" or name.startswith("Documentation")
        if public or row["block"] in CARRIES_IPV4:
            continue
        if name in PRIVATE:
            yield block, "private", PRIVATE[name]
        else:
            yield block, "never_by_name", PLAINER.get(name, name)
    for text, kind, what in BESIDES:
        yield ip_network(text), kind, what


def render(csv_text: str) -> str:
    """The text of address_table.py."""
    rows = sorted(
        judged(csv.DictReader(csv_text.splitlines())),
        key=lambda row: (row[0].version, int(row[0].network_address), row[0].prefixlen),
    )
    lines = "\n".join(f'    ("{block}", "{kind}", "{what}"),' for block, kind, what in rows)
    return (
        '"""Blocks that are not the public internet. Written by make_address_table.py: change that, not this."""\n'
        "\n"
        "from typing import Final\n"
        "\n"
        "# (block, kind, what it is); the most specific block that holds an address speaks for it.\n"
        f"TABLE: Final[tuple[tuple[str, str, str], ...]] = (\n{lines}\n)\n"
    )


if __name__ == "__main__":
    text = render((HERE / "special_purpose.csv").read_text("utf-8"))
    (HERE / "address_table.py").write_text(text, "utf-8")
