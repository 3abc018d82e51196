"""Kernel objects of one workspace: its network namespace, tap, rules and listening sockets.

In: a path, and a `Steering` (what the policy means for addresses). Out: a `Network` whose sockets go to the
mediator and whose tap goes to QEMU. Each object has create and remove, and remove may be called twice.
Never: a route, a veth or a forward that leads out of the namespace. Start reading at `network`.
"""
