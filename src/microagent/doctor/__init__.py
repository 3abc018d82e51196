"""What this machine can do, found out by doing it.

In: nothing but the machine (and where the guest's files are). Out: `Finding`s, each with its fix. It changes nothing
that outlives a check. Start reading at `checks`.
"""
