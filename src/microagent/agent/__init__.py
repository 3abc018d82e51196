"""The root daemon, one a state directory.

In: requests on the unix socket, from peers that SO_PEERCRED vouches for. Out: workspaces with a network, a mediator
and a guest each, built in readiness order and undone in reverse. It parses no guest bytes: they pass from the guest's
serial port to the client and the log as they are.
Start reading at `main`, then `fleet` (all workspaces), `supervisor` (one), `bringup` (the order of a start).
"""
