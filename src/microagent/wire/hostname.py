"""One spelling for a host name off the wire, or none at all (contract 3).

The policy, the resolver, the dialler, the upstream certificate and the record all use the string made here,
so that no two of them can read the same bytes differently. What cannot be spelled is malformed: never
repaired, never "no name". Neither idna, `str.lower` nor a resolver sees these bytes.
"""

import re
from typing import Final

from microagent.errors import Malformed

# RFC 1035 section 2.3.4: labels of 1 to 63 octets. 253 is what 255 octets on the wire leave for the text.
MAX_NAME: Final = 253
_NAME: Final = re.compile(rb"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_FORBIDDEN: Final = re.compile(rb"[^a-z0-9_.-]")

# A last label that is a number makes the whole an IPv4 address in some spelling: `10.0.0.1`, but to inet_aton
# also `127.1`, `0x7f.1` and `2130706433` (URL Standard, "ends in a number checker").
_NUMERIC_LABEL: Final = re.compile(rb"[0-9]+|0x[0-9a-f]*")


def normalize_untrusted(raw: bytes) -> str:
    """Return `raw` in lower case without its one trailing dot; Malformed if it is not a host name.

    Letters, digits, hyphen and underscore, in labels of 1 to 63, 253 in all. Raises only Malformed.
    """
    name = raw[:-1] if raw.endswith(b".") else raw
    if len(name) > MAX_NAME:
        raise Malformed(f"a host name of {len(name)} bytes, the limit is {MAX_NAME}")
    name = name.lower()
    if _NAME.fullmatch(name) is None:
        raise Malformed(_fault(name))
    if _NUMERIC_LABEL.fullmatch(name[name.rfind(b".") + 1 :]):
        raise Malformed("an IP address in the place of a host name")
    return name.decode("ascii")


def _fault(name: bytes) -> str:
    """Say why `name` (lower case, within the length) does not match; its bytes are shown as hex only."""
    if not name:
        return "an empty host name"
    if found := _FORBIDDEN.search(name):
        return f"byte 0x{found[0][0]:02x} in a host name"
    if any(not label for label in name.split(b".")):
        return "an empty label in a host name"
    return "a label of more than 63 bytes in a host name"
