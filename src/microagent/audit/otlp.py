"""Records as OpenTelemetry log records: the JSON form of OTLP's ExportLogsServiceRequest. Pure.

Source: the OpenTelemetry protocol, sections "JSON Protobuf Encoding" and "OTLP/HTTP", and its logs data model: 64-bit
integers are strings, names are in lowerCamelCase. The body is the record's own line, so that it can be verified
elsewhere; each of its fields is an attribute besides.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from microagent import __version__
from microagent.audit.reader import members
from microagent.audit.render import verdict

Json = dict[str, Any]

# By verdict: the number and the name of a severity in the logs data model.
_SEVERITIES: Final[Mapping[str, tuple[int, str]]] = {
    "deny": (13, "WARN"),
    "drop": (13, "WARN"),
    "error": (17, "ERROR"),
}
_INFO: Final = (9, "INFO")
# What the log record itself says already.
_ELSEWHERE: Final = frozenset({"v", "ts", "chain", "workspace"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def export_request(workspace: str, lines: Iterable[bytes]) -> bytes:
    """The body of one request: lines of one workspace's log, without their newlines."""
    resource = {"service.name": "microagent", "microagent.workspace": workspace}
    scope = {
        "scope": {"name": "microagent", "version": __version__},
        "logRecords": [_log_record(line) for line in lines],
    }
    request = {"resourceLogs": [{"resource": {"attributes": _attributes(resource)}, "scopeLogs": [scope]}]}
    return json.dumps(request, separators=(",", ":")).encode("ascii")


def _log_record(line: bytes) -> Json:
    record: Json = members(line) or {}
    number, name = _SEVERITIES.get(verdict(record), _INFO)
    time = str(_nanoseconds(record.get("ts")))
    fields = {f"microagent.{key}": value for key, value in record.items() if key not in _ELSEWHERE}
    return {
        "timeUnixNano": time,
        "observedTimeUnixNano": time,
        "severityNumber": number,
        "severityText": name,
        "eventName": str(record.get("event", "")),
        "body": {"stringValue": line.decode("utf-8", "replace")},
        "attributes": _attributes(fields),
    }


def _nanoseconds(ts: object) -> int:
    """Since the epoch; 0, which is "unknown", where there is no time."""
    try:
        since = datetime.fromisoformat(str(ts)) - _EPOCH
    except (ValueError, TypeError):
        return 0
    return (since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds) * 1000


def _attributes(fields: Mapping[str, Any]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in fields.items()]


def _value(value: object) -> Json:
    match value:
        case bool():
            return {"boolValue": value}
        case int() if -(1 << 63) <= value < 1 << 63:
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case list():
            return {"arrayValue": {"values": [_value(item) for item in value]}}
        case _:
            # Half a surrogate pair, which a guest may have put into a name, is no text to a receiver.
            return {"stringValue": str(value).encode("utf-8", "replace").decode("utf-8")}
