"""What a workspace is and where it is kept.

In: JSON from the API, and the state directory. Out: `WorkspaceSpec` (what the user asked for), `Record` (that, plus
what the agent decided: uids, state, last end). It never starts a process and never touches the network.
Start reading at `spec` and `egress` (pure), then `states` (the one table of the lifecycle), then `store`.
"""
