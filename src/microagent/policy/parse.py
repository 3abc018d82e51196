"""From what the user wrote to entries: flags one by one, files whole.

Nothing is half applied: a file with one fault yields no entry, and every fault it has is reported at once.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from microagent.errors import PolicyError, Problem
from microagent.policy.document import Items, Node, Other, Pairs, Text, is_null, read_yaml
from microagent.policy.entries import parse_entry
from microagent.policy.json_text import read_json
from microagent.policy.model import Entry, Verb
from microagent.policy.stored import entries_from_json, entries_to_json

__all__ = ["entries_from_json", "entries_to_json", "parse_bytes", "parse_entry", "parse_file"]

# 100 000 entries are some 3 MB. Checked before parsing, so that 10 MB cost nothing.
MAX_BYTES: Final = 4 * 1024 * 1024
# Enough to mend a file by; a binary by mistake would have thousands.
MAX_PROBLEMS: Final = 20

_EXAMPLE: Final = "a policy file has `allow:` and/or `passthrough:`, each a list: allow: [api.example.org]"
_NOT_KEYS: Final = {
    "deny": "there is no deny list: in strict mode what is not allowed is denied",
    "block": "there is no deny list: in strict mode what is not allowed is denied",
    "mode": "the mode is the flag --egress guarded|strict|off",
    "egress": "write `allow:` and `passthrough:` at the top; the mode is the flag --egress",
}


def parse_bytes(raw: bytes, filename: str) -> tuple[Entry, ...]:
    """As `parse_file`, for a file's bytes: UTF-8, with or without a byte order mark."""
    _check_size(len(raw), filename)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem("not UTF-8 text", "save the file as UTF-8", filename, line)
        raise PolicyError((problem,)) from None
    return parse_file(text, filename)


def parse_file(text: str, filename: str) -> tuple[Entry, ...]:
    """The entries of a `.yaml`, `.yml` or `.json` file, in the order written, with "FILE:LINE:COLUMN" as origin.

    Raises PolicyError with every problem (the first MAX_PROBLEMS) and its place.
    """
    _check_size(len(text), filename)
    _, dot, kind = filename.lower().rpartition(".")
    if not dot or kind not in ("yaml", "yml", "json"):
        raise PolicyError((Problem("not a policy file", "name it .yaml, .yml or .json", filename),))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise PolicyError((Problem("not Unicode text", "save the file as UTF-8", filename),)) from None
    root, problems = (read_json if kind == "json" else read_yaml)(text, filename)
    found = _Reading(filename, problems)
    entries = tuple(found.entries(root))
    if found.problems:
        raise PolicyError(_first(found.problems, filename))
    return entries


def _check_size(size: int, filename: str) -> None:
    if size > MAX_BYTES:
        what = f"{size // 1024} KiB, the limit is {MAX_BYTES // 1024}"
        raise PolicyError((Problem(what, "a suffix such as .example.org stands for many names", filename),))


def _first(problems: list[Problem], filename: str) -> tuple[Problem, ...]:
    problems = sorted(problems, key=lambda p: (p.line, p.column))
    if (more := len(problems) - MAX_PROBLEMS) > 0:
        return (*problems[:MAX_PROBLEMS], Problem(f"and {more} more problems", "", filename))
    return tuple(problems)


class _Reading:
    """Walks a file's nodes, yields entries, and collects problems instead of stopping at the first."""

    def __init__(self, filename: str, problems: list[Problem]) -> None:
        self.filename = filename
        self.problems = problems

    def entries(self, root: Node | None) -> Iterator[Entry]:
        if root is None or is_null(root):
            hint = "write `allow: []` for a policy without entries"
            self.problems.append(Problem("the file is empty", hint, self.filename))
        elif not isinstance(root, Pairs):
            self._report(root, f"{_named(root)} where a policy file has a mapping", _EXAMPLE)
        else:
            yield from self._lists(root)

    def _lists(self, root: Pairs) -> Iterator[Entry]:
        seen: dict[str, int] = {}
        for key, value in root.pairs:
            word = key.value if isinstance(key, Text) else key.shown if isinstance(key, Other) else ""
            if word not in tuple(Verb):
                self._report(key, f"unknown key {word!r}" if word else f"{_named(key)} as a key", _spelling(word))
                continue
            if word in seen:
                hint = f"it is also on line {seen[word]}: put both lists into one"
                self._report(key, f"duplicate key {word!r}", hint)
            seen.setdefault(word, key.line)
            yield from self._list(Verb(word), key, value)

    def _list(self, verb: Verb, key: Node, value: Node) -> Iterator[Entry]:
        if is_null(value):
            self._report(key, f"{verb.value!r} has no list", f"write `{verb.value}: []` for none")
        elif isinstance(value, Items):
            for item in value.items:
                entry = self._entry(verb, item)
                if entry is not None:
                    yield entry
        elif isinstance(value, Text):
            hint = f"write {verb.value}: [{value.value}], or `- {value.value}` on a line of its own"
            self._report(value, f"{verb.value!r} is a string, not a list", hint)
        else:
            self._report(value, f"{verb.value!r} is {_named(value)}, not a list", _EXAMPLE)

    def _entry(self, verb: Verb, item: Node) -> Entry | None:
        if isinstance(item, Text):
            try:
                return parse_entry(verb, item.value, f"{self.filename}:{item.line}:{item.column}")
            except PolicyError as error:
                for problem in error.problems:
                    self._report(item, problem.what, problem.hint)
        elif is_null(item):
            self._report(item, "an empty entry", "write a name, a .suffix, an address or a CIDR block")
        elif isinstance(item, Other):
            self._report(item, f"{item.shown!r} is {item.what}, not a string", f'write "{item.shown}", in quotes')
        else:
            self._report(item, f"{_named(item)} where an entry should be", "an entry is one string")
        return None

    def _report(self, node: Node, what: str, hint: str) -> None:
        self.problems.append(Problem(what, hint, self.filename, node.line, node.column))


def _named(node: Node) -> str:
    if isinstance(node, Other):
        return node.what
    return {Text: "a string", Items: "a list", Pairs: "a mapping"}[type(node)]


def _spelling(word: str) -> str:
    """What to write instead of the unknown key `word`."""
    if hint := _NOT_KEYS.get(word.lower()):
        return hint
    close = get_close_matches(word.lower()[:32], [verb.value for verb in Verb], n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "the keys are 'allow' and 'passthrough'"
