"""DNS messages, both ways (RFC 1035, RFC 6891).

In: a guest's query, an upstream's response. Out: `Query` and `Answer`, and the bytes of queries and
replies. Never: a lookup, a cache, a decision. A guest's bytes reach an upstream only as the canonical name
and the type.

Start reading at `query`; `answer` reads the upstream, `reply` speaks to the guest.
"""

from microagent.wire.dns.answer import (
    NODATA,
    Answer,
    Record,
    build_upstream_query,
    parse_response_untrusted,
)
from microagent.wire.dns.codes import QType, Rcode, qtype_text
from microagent.wire.dns.query import Query, parse_query_untrusted
from microagent.wire.dns.reply import build_reply, reply_error, reply_formerr, reply_refused, truncate_to
from microagent.wire.dns.reverse import pointer_answer, reverse_address

__all__ = [
    "NODATA",
    "Answer",
    "QType",
    "Query",
    "Rcode",
    "Record",
    "build_reply",
    "build_upstream_query",
    "parse_query_untrusted",
    "parse_response_untrusted",
    "pointer_answer",
    "qtype_text",
    "reply_error",
    "reply_formerr",
    "reply_refused",
    "reverse_address",
    "truncate_to",
]
