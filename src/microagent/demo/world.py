"""The made-up internet on one page: who lives where, and what the DNS says about it.

Every address is from the documentation ranges (RFC 5737, RFC 3849) or is one that must never be reached.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HOST: Final = "198.51.100.2"
HOST_V6: Final = "2001:db8:100::2"
ROUTER: Final = "198.51.100.1"
ROUTER_V6: Final = "2001:db8:100::1"
PREFIX: Final = 24
PREFIX_V6: Final = 64

RESOLVER: Final = "203.0.113.53"
API: Final = "203.0.113.10"
SUFFIX: Final = "203.0.113.11"
BAD_CERTIFICATE: Final = "203.0.113.12"
WRONG_NAME: Final = "203.0.113.13"
PINNED: Final = "203.0.113.20"
SSH: Final = "203.0.113.30"
TIME: Final = "203.0.113.123"
PROGRAMS: Final = "203.0.113.50"
OTHER: Final = "203.0.113.40"
EVIL: Final = "203.0.113.66"
EVIL_V6: Final = "2001:db8:666::66"
SILENT: Final = "203.0.113.98"
CLOSED: Final = "203.0.113.99"
METADATA: Final = "169.254.169.254"
PRIVATE: Final = "10.99.0.1"

# Where TIME echoes datagrams: that of NTP.
TIME_PORT: Final = 123

# Where a catch-all listens in the far namespace; nothing on the wire ever carries this number.
CANARY_PORT: Final = 61666

BANNER: Final = b"SSH-2.0-made-up\r\n"

Zone = Mapping[str, Mapping[str, list[str]]]

ZONE: Final[Zone] = {
    "api.ok.test": {"A": [API], "TXT": ["v=1"], "HTTPS": ['1 . alpn="h3,h2" ipv4hint=203.0.113.10']},
    "agent.ok.test": {"A": [HOST]},
    "alias.ok.test": {"CNAME": ["api.ok.test"]},
    "escape.ok.test": {"CNAME": ["evil.test"]},
    "loop.ok.test": {"CNAME": ["loop2.ok.test"]},
    "loop2.ok.test": {"CNAME": ["loop.ok.test"]},
    "big.ok.test": {"A": [f"203.0.113.{n}" for n in range(101, 221)]},
    "mixed.ok.test": {"A": [API, PRIVATE]},
    "sfx.test": {"A": [SUFFIX]},
    "www.sfx.test": {"A": [SUFFIX]},
    "a.b.sfx.test": {"A": [SUFFIX]},
    "inside.sfx.test": {"A": [PRIVATE]},
    "xsfx.test": {"A": [EVIL]},
    "bad-certificate.test": {"A": [BAD_CERTIFICATE]},
    "wrong-name.test": {"A": [WRONG_NAME]},
    "pinned.test": {"A": [PINNED]},
    "ssh.ok.test": {"A": [SSH]},
    "time.ok.test": {"A": [TIME]},
    "h2.ok.test": {"A": [PROGRAMS]},
    "h2-too.ok.test": {"A": [PROGRAMS]},
    "other.test": {"A": [OTHER]},
    "evil.test": {"A": [EVIL], "AAAA": [EVIL_V6]},
    "silent.test": {"A": [SILENT]},
    "closed.test": {"A": [CLOSED]},
    "metadata.test": {"A": [METADATA]},
    "inside.test": {"A": [PRIVATE]},
    "mapped.test": {"AAAA": ["::ffff:169.254.169.254"]},
}


@dataclass(frozen=True, slots=True)
class Site:
    """A web server: plain HTTP on 80 and HTTPS on 443 of `address`; its certificate names `names`.

    `trusted` says whether the internet's CA signed it; otherwise it signed itself. Where nothing is `served`, a
    program of a test's may listen.
    """

    address: str
    names: tuple[str, ...]
    trusted: bool = True
    served: bool = True


SITES: Final = (
    Site(API, ("api.ok.test", "alias.ok.test", "escape.ok.test", "mixed.ok.test")),
    Site(SUFFIX, ("sfx.test", "www.sfx.test", "a.b.sfx.test")),
    Site(BAD_CERTIFICATE, ("bad-certificate.test",), trusted=False),
    Site(WRONG_NAME, ("right-name.test",)),
    Site(PINNED, ("pinned.test",)),
    Site(OTHER, ("other.test",)),
    Site(PROGRAMS, ("h2.ok.test", "h2-too.ok.test"), served=False),
)
