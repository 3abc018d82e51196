"""`python -m microagent.cli`: the same as the command, also where it is not installed."""

from microagent.cli.main import main

main()
