"""The command line: asks the agent through `api`, and shows answers to people or programs.

In: arguments, the user's policy files, microagent.yaml, stdin. Out: text or JSON, and an exit code. It decides nothing
that the agent does not check again. Every module here imports what is slow inside its commands, so that `--help`
comes at once. Start reading at `main`.
"""
