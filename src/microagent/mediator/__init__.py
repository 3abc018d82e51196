"""The unprivileged process, one a workspace, through which all that a guest sends must pass.

In: listening sockets in the workspace's namespace, settings and a log file, all handed over as descriptors.
Out: connections of its own in the host's namespace, and a record of each decision before the act.
It trusts neither guest nor upstream, reads no file, starts no process, and decides nothing by itself: the heads in
`flows` do. Start reading at `main`; a TCP connection's life is `flow`.
"""
