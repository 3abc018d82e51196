"""What all workspaces of one agent share."""

from dataclasses import dataclass, field
from pathlib import Path

from microagent.agent.config import Config
from microagent.agent.ledger import Ledger
from microagent.agent.outbox import Outbox
from microagent.agent.rounds import Rounds
from microagent.agent.seals import Seals
from microagent.agent.spawner import Spawner
from microagent.guests.image import ImageStore
from microagent.guests.turns import Turns
from microagent.host.cgroup import Cgroups
from microagent.workspace.store import Store


def netns_directory(config: Config) -> Path:
    """Where the network namespaces are kept, one file a workspace."""
    return config.run_dir / "netns"


def sockets_directory(config: Config) -> Path:
    """Where guests and mediators listen for the agent, one directory a workspace."""
    return config.run_dir / "sockets"


@dataclass(frozen=True, slots=True)
class Services:
    """Configuration, the two directories, the makers of mediators and images, and bounds, if this machine has them."""

    config: Config
    store: Store
    ledger: Ledger
    mediators: Spawner
    images: ImageStore
    cgroups: Cgroups | None
    seals: Seals
    outbox: Outbox
    rounds: Rounds
    turns: Turns = field(default_factory=Turns)
