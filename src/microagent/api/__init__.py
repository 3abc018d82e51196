"""What the processes say to each other: CLI to agent (HTTP over a unix socket), agent to mediator (`control`).

In and out: typed messages. It decides nothing and touches no kernel object. `link` holds the addresses that guests,
namespaces and mediators agree on. Start reading at `control` for mediators, at `client` for the CLI.
"""
