"""A made-up internet in namespaces, and a demonstration that a real guest cannot get past its mediator.

Comes in: nothing but root on a Linux machine.
Goes out: a table "tried / expected / happened", and an exit code.
Never: a packet to the machine's own network; a file outside a temporary directory; anything left over.
Start reading at `run` (what `microagent demo` does), then `internet` (the world) and `oracle` (the leaks).
"""
