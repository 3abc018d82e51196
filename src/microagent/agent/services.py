"""What all workspaces of one agent share."""

from dataclasses import dataclass

from microagent.agent.config import Config
from microagent.agent.ledger import Ledger
from microagent.agent.spawner import Spawner
from microagent.guests.image import ImageStore
from microagent.workspace.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """Configuration, the two directories, and the makers of mediators and images."""

    config: Config
    store: Store
    ledger: Ledger
    mediators: Spawner
    images: ImageStore
