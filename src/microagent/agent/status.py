"""What `ps` and `status` are told."""

from datetime import UTC, datetime

from microagent.agent.supervisor import Supervisor
from microagent.api.messages import Status
from microagent.workspace.record import Record


def status(supervisor: Supervisor) -> Status:
    """Everything about one workspace, what it did counted from its log. For a worker thread."""
    refused, last, traffic = supervisor.summary.look()
    return {**brief(supervisor), "denied": refused, "traffic": traffic, "last_denials": last}


def brief(supervisor: Supervisor) -> Status:
    """The same without reading the log."""
    record, life = supervisor.record, supervisor.life
    settings = record.spec.to_json()
    return {
        "name": record.name,
        "state": record.state.value,
        "setting_up": supervisor.setting_up,
        "reason": record.reason,
        "image": record.spec.image,
        "digest": record.digest,
        "command": settings["command"],
        "entrypoint": settings["entrypoint"],
        "setup": settings["setup"],
        "env": settings["env"],
        "memory_mib": record.spec.memory_mib,
        "cpus": record.spec.cpus,
        "disk_mib": record.spec.disk_mib,
        "ephemeral": record.spec.ephemeral,
        "egress": supervisor.egress.to_json(),
        "policy_digest": supervisor.egress.policy.digest,
        "created": record.created,
        "started": record.started,
        "uptime_seconds": _uptime(record) if supervisor.live else None,
        "exit_code": record.exit_code,
        "mediator_uid": record.mediator_uid,
        "guest_uid": record.guest_uid,
        "mediator_pid": life.keeper.mediator.pid if life else None,
        "guest_pid": life.guest.pid if life else None,
    }


def _uptime(record: Record) -> int | None:
    """Whole seconds since it was started."""
    if record.started is None:
        return None
    return max(0, int((datetime.now(UTC) - datetime.fromisoformat(record.started)).total_seconds()))
