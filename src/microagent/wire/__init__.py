"""Bytes to facts: what a guest or an upstream sent, in one reading or none.

In: bytes, in whatever pieces they arrived. Out: frozen facts, "need more", or Malformed, and nothing else:
a function whose name ends in `_untrusted` lets no other exception out, and each of its caps has its reason
beside it. Never: a socket, a clock, a decision, a repair. What can be read in two ways is malformed.

Start reading at `sniff` (which protocol), then `client_hello`, `http1` and `dns` (who is asked for).
`hostname` has the one spelling of a name that all of them use.
"""
