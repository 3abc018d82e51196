"""Host names: off the wire as bytes, from a policy as text that a person wrote.

`normalize_untrusted` is the one rule both end in. idna is loaded only when an entry holds a letter beyond ASCII,
so a process that only matches never pays for its tables.

UTS-46 maps more than case: full-width letters, ideographic full stops, invisible hyphens. Of all that an entry may
use case and composition; the rest is refused, so that an entry is what it looks like.
"""

import unicodedata

from microagent.errors import Malformed
from microagent.wire.hostname import normalize_untrusted

__all__ = ["ascii_name", "normalize_untrusted"]


def ascii_name(text: str) -> str:
    """The canonical name for `text` as a person writes it; U-labels by UTS-46, strict, to A-labels.

    Raises Malformed, and only that.
    """
    if text.isascii():
        name = normalize_untrusted(text.encode("ascii"))
        return name if "xn--" not in name else _checked_a_labels(name)
    return _from_u_labels(text)


def _from_u_labels(text: str) -> str:
    import idna  # its tables cost several milliseconds and megabytes, see the module's docstring

    if len(text) > 253:  # before idna, whose work grows with the square of the length
        raise Malformed(f"a host name of {len(text)} characters, the limit is 253")
    try:
        mapped = idna.uts46_remap(text, std3_rules=True, transitional=False)
        if mapped != unicodedata.normalize("NFC", "".join(char.lower() for char in text)):
            raise Malformed(f"letters or dots that only stand for others (UTS-46 reads {mapped!r})")
        encoded = idna.encode(mapped, strict=True)
    except (idna.IDNAError, UnicodeError) as error:
        raise Malformed(f"not an internationalised host name: {error}") from None
    return normalize_untrusted(encoded)


def _checked_a_labels(name: str) -> str:
    """`name` if each of its `xn--` labels is one that some U-label encodes to; else it could never be asked for."""
    import idna  # as above

    for label in name.split("."):
        if label.startswith("xn--"):
            try:
                idna.ulabel(label)
            except (idna.IDNAError, UnicodeError) as error:
                raise Malformed(f"{label} is not an A-label: {error}") from None
    return name
