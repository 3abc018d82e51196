"""Records as syslog messages, in the form that /dev/log takes. Pure.

Source: RFC 3164 section 4.1, as rsyslog's imuxsock and systemd-journald read it from a local socket: priority, tag and
process, text; the time is the receiver's own, and the record has its own besides.
"""

from collections.abc import Mapping
from typing import Final

from microagent.audit.reader import members
from microagent.audit.render import verdict

_DAEMON: Final = 3
_INFO: Final = 6
# By verdict; RFC 5424 table 2.
_SEVERITIES: Final[Mapping[str, int]] = {"deny": 4, "drop": 4, "error": 3}


def message(line: bytes, pid: int) -> bytes:
    """One datagram for a line of a log, without its newline."""
    severity = _SEVERITIES.get(verdict(members(line) or {}), _INFO)
    return b"<%d>microagent[%d]: %b" % (_DAEMON << 3 | severity, pid, line)
