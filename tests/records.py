"""Every line that a mediator of the tests' writes is held against docs/records.schema.json."""

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jsonschema import Draft202012Validator

from microagent.audit.chain import head

if TYPE_CHECKING:
    from io import FileIO

_SCHEMA = Path(__file__).resolve().parents[1] / "docs" / "records.schema.json"
# A log of one event over and over would take minutes, and says nothing new.
_OF_EACH_EVENT = 300


def violations(lines: Iterable[bytes]) -> list[str]:
    """What is wrong with records, as the schema has it; a line that was never finished is none."""
    found: list[str] = []
    looked_at: dict[str, int] = {}
    for line in lines:
        if head(line) is None:
            continue
        record = json.loads(line)
        event = record["event"]
        looked_at[event] = looked_at.get(event, 0) + 1
        if looked_at[event] <= _OF_EACH_EVENT:
            found += [f"{problem.message} in {record}" for problem in _validator(event).iter_errors(record)]
    return found


@cache
def _validator(event: str) -> Draft202012Validator:
    """For one event: that no branch of the whole schema matches would say little."""
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text("utf-8"))
    if event in schema["$defs"]:
        del schema["oneOf"]
        schema["$ref"] = f"#/$defs/{event}"
    return Draft202012Validator(schema)


class Witness:
    """Holds the logs of a state directory's workspaces against the schema when left; also those deleted meanwhile.

    How this works: a thread opens each log soon after it is there, and what is open can be read when it is gone.
    """

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "workspaces"
        self._files: dict[int, FileIO] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_around, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        found: list[str] = []
        for file in self._files.values():
            with file:
                found += violations(file.read().split(b"\n"))
        assert found == [], "\n".join(found[:10])

    def _look_around(self) -> None:
        while not self._over.wait(0.1):
            self._look()

    def _look(self) -> None:
        for path in (path for workspace in _listed(self._directory) for path in _listed(workspace)):
            if not path.name.startswith("egress.jsonl"):
                continue
            with suppress(OSError):
                file = path.open("rb", buffering=0)
                if self._files.setdefault(os.fstat(file.fileno()).st_ino, file) is not file:
                    file.close()


def _listed(directory: Path) -> list[Path]:
    """What is in it now; nothing while it is not there."""
    with suppress(FileNotFoundError):
        return list(directory.iterdir())
    return []
