"""What a run was refused, in one glance."""

from pathlib import Path

from microagent.api.messages import Denied
from microagent.audit.reader import Filter, host_of, read

_HOSTS = 3


def denied(log: Path, since: str) -> Denied:
    """Refusals by name or address since a time, and the first few hosts. Packets the kernel dropped do not count."""
    count = 0
    hosts: dict[str, None] = {}
    for record in read(log, Filter(denied=True, since=since)):
        if record.get("event") in ("egress_drop", "unreadable_line"):
            continue
        count += record["count"] if isinstance(record.get("count"), int) else 1
        if len(hosts) < _HOSTS and host_of(record):
            hosts[host_of(record)] = None
    return {"count": count, "hosts": list(hosts)}
