"""The small files that people write for microagent (agent.yaml, microagent.yaml), decoded as strictly as policies.

One mapping with known keys. Values are text, whole numbers in decimal, true, false, lists and mappings of them;
what YAML would quietly read as something else is an error with its line and column.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeAlias

from microagent.errors import PolicyError, Problem
from microagent.policy.document import Items, Node, Other, Pairs, Text, read_yaml

Explain: TypeAlias = Callable[[str], tuple[str, str] | None]
Judge: TypeAlias = Callable[[str, Any], tuple[str, str] | None]

_WORDS = {"true": True, "false": False}
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mapping:
    """The values by key, and where each key was written."""

    source: str
    values: dict[str, Any]
    places: dict[str, tuple[int, int]]

    def problem(self, key: str, what: str, hint: str = "") -> Problem:
        """A problem at that key's place."""
        return Problem(what, hint, self.source, *self.places[key])


def _unexplained(_: str) -> None:
    return None


def _unjudged(_: str, __: Any) -> None:
    return None


def decode(
    text: str, source: str, keys: Collection[str], explain: Explain = _unexplained, judge: Judge = _unjudged
) -> Mapping:
    """The mapping in a YAML text; PolicyError with all that is wrong with it, keys not in `keys` among that.

    `explain` may give (what, hint) for an unknown key that deserves more than that, `judge` for a key and its value.
    """
    try:
        root, problems = read_yaml(text, source)
    except PolicyError as error:
        root, problems = None, list(error.problems)
    # The reader's hints speak of policies.
    reader = _Reader(source, explain, [replace(problem, hint="") for problem in problems])
    pairs = [] if root is None else reader.pairs(root, keys)
    values = {}
    for key, (node, value) in pairs:
        before = len(reader.problems)
        values[key] = reader.value(value)
        if len(reader.problems) == before and (wrong := judge(key, values[key])):
            reader.report(node, *wrong)
    if reader.problems:
        raise PolicyError(tuple(sorted(reader.problems, key=lambda problem: (problem.line, problem.column))))
    return Mapping(source, values, {key: (node.line, node.column) for key, (node, _) in pairs})


class _Reader:
    """Turns nodes into plain values and collects what is wrong with them."""

    def __init__(self, source: str, explain: Explain, problems: list[Problem]) -> None:
        self._source = source
        self._explain = explain
        self.problems = problems

    def pairs(self, node: Node, keys: Collection[str] | None) -> list[tuple[str, tuple[Node, Node]]]:
        """Key, its node and its value's; `keys` None accepts every key once."""
        if not isinstance(node, Pairs):
            self.report(node, "not a mapping")
            return []
        found: dict[str, tuple[Node, Node]] = {}
        for key, value in node.pairs:
            if not isinstance(key, Text):
                self.report(key, "a key that is not text")
            elif key.value in found:
                self.report(key, f"{key.value} is there twice")
            elif keys is not None and key.value not in keys:
                what, hint = self._explain(key.value) or unknown(key.value, keys)
                self.report(key, what, hint)
            else:
                found[key.value] = (key, value)
        return list(found.items())

    def value(self, node: Node) -> Any:
        """str, int, bool, list or dict; None for what became a problem."""
        match node:
            case Text():
                return node.value
            case Items():
                return [self.value(item) for item in node.items]
            case Pairs():
                return {key: self.value(value) for key, (_, value) in self.pairs(node, None)}
            case Other() if node.shown in _WORDS:
                return _WORDS[node.shown]
            case Other() if _WHOLE.fullmatch(node.shown):
                return int(node.shown)
        what = "no value" if node.shown in ("", "~", "null") else f"{node.what} that has no meaning here"
        self.report(node, what, f'if it is text, write "{node.shown}"')
        return None

    def report(self, node: Node, what: str, hint: str = "") -> None:
        """One more problem."""
        self.problems.append(Problem(what, hint, self._source, node.line, node.column))


def unknown(word: str, keys: Collection[str]) -> tuple[str, str]:
    """What is wrong with a key that is none of `keys`, and a hint: the nearest one, or all."""
    near = get_close_matches(word[:32], list(keys), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(sorted(keys))}"
    return f"unknown key {word!r}", hint
