"""What a workspace was refused, counted without reading anything twice."""

import json
from pathlib import Path
from typing import Any

from microagent.agent.summary import Refusals, denied


def append(path: Path, *records: dict[str, Any]) -> None:
    with path.open("a") as log:
        log.writelines(json.dumps(record) + "\n" for record in records)


def test_refusals_are_counted_as_they_come_and_across_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    refusals = Refusals(path)
    assert refusals.count() == {"count": 0, "hosts": []}
    append(path, {"event": "egress_deny", "host": "evil.test"}, {"event": "egress_allow", "host": "fine.test"})
    append(path, {"event": "egress_drop", "packets": 9}, {"event": "egress_cap_exceeded", "count": 7})
    assert refusals.count() == {"count": 8, "hosts": ["evil.test"]}
    append(path, *({"event": "egress_dns_deny", "qname": f"{name}.test"} for name in "abcd"))
    path.rename(path.with_name("egress.jsonl.1"))
    append(path, {"event": "egress_deny", "dst": "10.0.0.1:80"})
    expected = {"count": 13, "hosts": ["evil.test", "a.test", "b.test"]}
    assert refusals.count() == refusals.count() == expected == denied(path, "")


def test_a_log_that_was_replaced_is_counted_anew(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    append(path, {"event": "egress_deny", "host": "evil.test"})
    refusals = Refusals(path)
    assert refusals.count()["count"] == 1
    path.rename(tmp_path / "elsewhere")
    append(path, {"event": "egress_deny", "host": "other.test"})
    assert refusals.count() == {"count": 1, "hosts": ["other.test"]}
