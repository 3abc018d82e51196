"""Seals: what the agent vouches for, each second, about a log that it does not write. Pure.

How this works: the chain shows that lines belong together, but whoever may write the file could make all of it anew, or
cut it short. So the agent signs the newest link it sees (Ed25519, RFC 8032; its key is root's alone) and keeps the
signatures where no mediator reaches. A seal also carries how often the log was rotated, and the digest of the seal
before it, so that none of them can be taken out.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from microagent.audit.chain import START
from microagent.errors import Malformed

_MEMBER: Final = b',"signature":"'
_SUFFIX_LENGTH: Final = len(_MEMBER) + 128 + len(b'"}')


@dataclass(frozen=True, slots=True)
class Seal:
    """At `ts` (RFC 3339) the newest record was `seq`, its link `chain`, and the log had been rotated so many times.

    `before` is the digest of the seal before this one.
    """

    ts: str
    seq: int
    chain: str
    rotated: int = 0
    before: str = START

    def sign(self, key: Ed25519PrivateKey) -> bytes:
        """The line for the file of seals, without its newline."""
        body = json.dumps({"v": 1, **asdict(self)}, separators=(",", ":")).encode()
        return body[:-1] + _MEMBER + key.sign(body).hex().encode() + b'"}'


def read_seal(line: bytes, key: Ed25519PublicKey) -> Seal:
    """The seal in a line, once its signature was verified; Malformed when it is not one of this key's."""
    unsigned = line[:-_SUFFIX_LENGTH]
    try:
        signature = bytes.fromhex(line[-130:-2].decode("ascii"))
        if unsigned + _MEMBER + signature.hex().encode() + b'"}' != line:
            raise ValueError("not the form of a seal")
        body = unsigned + b"}"
        key.verify(signature, body)
        fields = json.loads(body)
        if fields.pop("v") != 1:
            raise Malformed("a seal of a version that this microagent does not know")
        return Seal(**fields)
    except (InvalidSignature, ValueError, TypeError, KeyError, AttributeError):
        raise Malformed("a seal that the agent's key did not sign") from None


def digest(line: bytes) -> str:
    """What the next seal says of this one."""
    return hashlib.sha256(line).hexdigest()


def fingerprint(key: Ed25519PublicKey) -> str:
    """The key's name for people: SHA-256 over its 32 bytes, in hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()
