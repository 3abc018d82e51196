"""The agent's log on standard error: lines for people, or one object a line for programs (`agent --json`)."""

import json
import logging
import time
from datetime import UTC, datetime

from microagent.audit.record import timestamp


def log_to_stderr(*, as_json: bool) -> None:
    """From now on, all that is said from INFO on."""
    handler = logging.StreamHandler()
    people = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s", "%FT%T")
    people.converter = time.gmtime  # as records have it
    handler.setFormatter(_Objects() if as_json else people)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


class _Objects(logging.Formatter):
    """`ts` as in records; a traceback does not get lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
