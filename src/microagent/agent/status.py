"""What `ps` and `status` are told."""

import asyncio

from microagent.agent.supervisor import Supervisor
from microagent.api.messages import Denied, Status


async def status(supervisor: Supervisor) -> Status:
    """Everything about one workspace, refusals counted from its log."""
    return brief(supervisor, await asyncio.to_thread(supervisor.refusals.count))


def brief(supervisor: Supervisor, refused: Denied) -> Status:
    """The same without reading the log."""
    record, life = supervisor.record, supervisor.life
    settings = record.spec.to_json()
    return {
        "name": record.name,
        "state": record.state.value,
        "reason": record.reason,
        "image": record.spec.image,
        "digest": record.digest,
        "command": settings["command"],
        "env": settings["env"],
        "memory_mib": record.spec.memory_mib,
        "cpus": record.spec.cpus,
        "ephemeral": record.spec.ephemeral,
        "egress": supervisor.egress.to_json(),
        "policy_digest": supervisor.egress.policy.digest,
        "created": record.created,
        "started": record.started,
        "exit_code": record.exit_code,
        "mediator_pid": life.keeper.mediator.pid if life else None,
        "guest_pid": life.guest.pid if life else None,
        "denied": refused,
    }
