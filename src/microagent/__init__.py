"""microagent: workspaces for AI agents whose only way out is a mediator that decides and records.

Start reading at `decision.engine` (what may happen), `flows` (one conversation each), `mediator.main`
(the process that does it) and `agent.main` (the daemon that sets it up).
"""

__version__ = "0.1.0"
