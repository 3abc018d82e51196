"""`egress NAME --id ID`: from the id in a guest's error to the record, the reason, and the command that permits it.

The reason comes from the record, which is what was decided then. What would be decided now, and what would permit it,
is asked of the engine with the workspace's policy of now.
"""

import shlex
from typing import Any

from microagent.cli.agent_call import with_agent
from microagent.cli.learning import engine_of, stored_egress
from microagent.cli.output import Settings, say, say_json, table
from microagent.errors import ApiError

Record = dict[str, Any]


def explain_decision(settings: Settings, name: str, ident: str) -> None:
    """Prints all there is to know about one decision. ApiError `not_found` when no record has that id."""
    from microagent.audit.render import headings, plain

    records = _flow(settings, name, ident)
    decision = next((record for record in records if record.get("id") == ident), records[0])
    answer = _answer(settings, name, decision)
    if settings.json:
        say_json({"id": ident, "workspace": name, **answer, "records": records})
        return
    table(("FIELD", "VALUE"), [row for row in _rows(ident, decision, answer) if row[1]])
    for line in (headings(), *map(plain, records)):
        say(line)


def _flow(settings: Settings, name: str, ident: str) -> list[Record]:
    """The record of that id and those of the same connection or query, oldest first."""
    found = _records(settings, name, ident)
    if not found:
        hint = "ids are case-sensitive; the oldest records go when the log is rotated"
        raise ApiError("not_found", f"no record of workspace {name} has the id {ident!r}", hint)
    flow = next((record.get("flow") for record in found if record.get("id") == ident), None)
    return _records(settings, name, flow) if isinstance(flow, str) and flow not in ("", ident) else found


def _records(settings: Settings, name: str, flow: str) -> list[Record]:
    import asyncio

    from microagent.api.client import Client
    from microagent.api.messages import workspace_path
    from microagent.api.names import checked_name
    from microagent.audit.reader import UNREADABLE

    async def collect() -> list[Record]:
        path = workspace_path(checked_name(name), "egress")
        async with Client(settings.socket) as client, client.lines(path, {"flow": flow}) as lines:
            return [record async for record in lines if record.get("event") != UNREADABLE]

    return with_agent(settings, lambda: asyncio.run(collect()))


def _answer(settings: Settings, name: str, decision: Record) -> dict[str, Any]:
    """The reason in words, the verdict of now where a policy decides such a thing, and the commands that permit it."""
    from microagent.decision.explain import explain_question
    from microagent.decision.past import past_question

    question = past_question(decision)
    now = explain_question(engine_of(stored_egress(settings, name)), question) if question else None
    permits = str(now["would_permit"]) if now and now["action"] == "deny" else ""
    commands = [_command(name, entry) for entry in permits.split(", ") if entry]
    return {"reason": decision.get("reason"), "meaning": _meaning(decision), "now": now, "commands": commands}


def _meaning(decision: Record) -> str:
    from microagent.decision.verdict import Reason

    try:
        return Reason(str(decision.get("reason"))).meaning
    except ValueError:
        return ""


def _command(workspace: str, entry: str) -> str:
    """`allow: api.example.org`, as `would_permit` has it, as the command that adds it."""
    verb, _, target = entry.partition(": ")
    return shlex.join(["microagent", "policy", verb, workspace, target])


def _rows(ident: str, decision: Record, answer: dict[str, Any]) -> list[tuple[str, str]]:
    from microagent.audit.render import host, verdict

    now = answer["now"]
    target = " ".join(str(decision[key]) for key in ("proto", "qtype", "method", "path") if decision.get(key))
    reason = f"{decision.get('reason', '')}: {answer['meaning']}" if answer["meaning"] else decision.get("reason", "")
    rows = [
        ("decision", ident),
        ("time", decision.get("ts", "")),
        ("verdict", f"{verdict(decision)} ({decision.get('event', '')})"),
        ("asked", target),
        ("host", host(decision)),
        ("destination", decision.get("dst", "")),
        ("reason", reason),
        ("rule", decision.get("rule", "")),
        ("error", decision.get("error", "")),
        ("signal", decision.get("signal", "")),
    ]
    if now is None:
        rows += [
            ("hint", decision.get("hint", "")),
            ("permitted by", "no policy entry: it was not the policy's decision"),
        ]
    else:
        why = f"rule {now['rule']}" if now["rule"] else now["reason"]
        rows.append(("now", f"{now['action']} ({why})"))
        if now["nearest"]:
            rows.append(("nearest", f"{now['nearest']['entry']}: {now['nearest']['why']}"))
        rows += [("permitted by", command) for command in answer["commands"]]
    return [(field, str(value or "")) for field, value in rows]
