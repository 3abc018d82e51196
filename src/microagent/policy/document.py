"""A file that people write, as plain nodes that know their places; and YAML to such nodes.

How this works. libyaml's events are read one at a time: no anchor, alias, tag or second document is ever followed,
nothing is constructed, and a file that nests is left after a few bytes of it. `json_text` yields the same nodes,
so that one set of rules (`parse`) reads both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import yaml

from microagent.errors import PolicyError, Problem

# A policy is a mapping of lists of strings: two deep. What nests further than this is an attack or a mistake.
MAX_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""

    value: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Other:
    """A scalar that is no string, or something refused: `what` says which ("a number"), `shown` how it was written."""

    what: str
    shown: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: "tuple[Node, ...]"
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """A mapping, every pair as it was written, duplicates included."""

    pairs: "tuple[tuple[Node, Node], ...]"
    line: int
    column: int


Node = Text | Other | Items | Pairs

# libyaml reads 100 000 entries in a tenth of a second, PyYAML's own scanner in ten.
_LOADER: Final = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

NULL: Final = "nothing"
_KINDS: Final = {
    "tag:yaml.org,2002:null": NULL,
    "tag:yaml.org,2002:bool": "a boolean",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:timestamp": "a date",
}


def is_null(node: Node) -> bool:
    """Whether a value was left out, or written as null."""
    return isinstance(node, Other) and node.what == NULL


def read_yaml(text: str, filename: str) -> tuple[Node | None, list[Problem]]:
    """The first document's root (None: there is none), and what YAML offers that a policy may not use.

    Raises PolicyError when it is not YAML, or too deep.
    """
    reader = _Yaml(filename)
    try:
        return reader.read(text), reader.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = f"not YAML: {error.problem or error.context}"
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise PolicyError((Problem(what, _yaml_hint(error), filename, line, column),)) from None
    except yaml.YAMLError as error:
        what = f"not YAML: {str(error).splitlines()[0]}"
        raise PolicyError((Problem(what, "save the file as UTF-8 text", filename),)) from None


def _yaml_hint(error: yaml.MarkedYAMLError) -> str:
    if "alias" in (error.context or ""):
        return "in YAML a * begins an alias; for *.example.org write .example.org (it also matches example.org itself)"
    if "cannot start any token" in (error.problem or ""):
        return "indent with spaces, not tabs, and put what begins with a special character in quotes"
    return "a policy file reads: allow:, then one `- name` a line below it"


class _Yaml:
    """Builds nodes from events, with a stack of the lists being filled."""

    def __init__(self, filename: str) -> None:
        self.filename = filename
        self.problems: list[Problem] = []
        self._resolver = yaml.resolver.Resolver()

    def read(self, text: str) -> Node | None:
        root: list[Node] = []
        stack: list[tuple[yaml.Event, list[Node]]] = []
        filling = root
        for event in self._events(text):
            if isinstance(event, yaml.CollectionStartEvent):
                self._refuse_marks(event)
                stack.append((event, filling))
                if len(stack) > MAX_DEPTH:
                    problem = self._problem(event, f"nested more than {MAX_DEPTH} deep", "a policy is two deep")
                    raise PolicyError((problem,))
                filling = []
            elif isinstance(event, yaml.CollectionEndEvent):
                start, parent = stack.pop()
                parent.append(_collected(start, filling))
                filling = parent
            elif isinstance(event, yaml.ScalarEvent):
                self._refuse_marks(event)
                filling.append(self._scalar(event))
            elif isinstance(event, yaml.AliasEvent):
                self._report(event, f"an alias, *{event.anchor}", "write the entries out")
                filling.append(Other("an alias", f"*{event.anchor}", *_place(event)))
        return root[0] if root else None

    def _events(self, text: str) -> Iterator[yaml.Event]:
        """The events of the first document; a second is reported and not read."""
        documents = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._report(event, "a second document", "a policy file is one document: remove the ---")
                    return
            yield event

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        # event.implicit[0]: a plain scalar, whose looks decide what it is. A quoted one is always a string.
        kind = None
        if event.implicit[0] and event.tag is None:
            kind = _KINDS.get(self._resolver.resolve(yaml.ScalarNode, event.value, (True, False)))  # type: ignore[no-untyped-call]
        if kind is None:
            return Text(event.value, *_place(event))
        return Other(kind, event.value, *_place(event))

    def _refuse_marks(self, event: yaml.CollectionStartEvent | yaml.ScalarEvent) -> None:
        if event.anchor is not None:
            self._report(event, f"an anchor, &{event.anchor}", "write the entries out")
        if event.tag is not None:
            self._report(event, f"a tag, {event.tag}", "remove it: entries are plain strings")

    def _report(self, event: yaml.Event, what: str, hint: str) -> None:
        self.problems.append(self._problem(event, what, hint))

    def _problem(self, event: yaml.Event, what: str, hint: str) -> Problem:
        return Problem(what, hint, self.filename, *_place(event))


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)


def _collected(start: yaml.Event, nodes: list[Node]) -> Node:
    if isinstance(start, yaml.MappingStartEvent):
        return Pairs(tuple(zip(nodes[::2], nodes[1::2], strict=True)), *_place(start))
    return Items(tuple(nodes), *_place(start))
