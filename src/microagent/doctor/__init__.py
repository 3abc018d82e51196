"""What this machine can do, found out by doing it; and whether a running workspace is held as it should be.

In: the machine (and where the guest's files are), or the facts about a workspace. Out: `Finding`s, each with its fix.
It changes nothing that outlives a check. Start reading at `checks` for the machine, at `workspace`, which is pure, for
a workspace: the agent gathers its facts (agent.doctoring), `probe` reads what the guest says.
"""
