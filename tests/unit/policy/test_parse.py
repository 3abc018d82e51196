"""Policy files: what is read, and every fault with its place and the way out, in YAML and in JSON alike."""

import json
import re
from collections.abc import Callable

import pytest

from microagent.errors import PolicyError, Problem
from microagent.policy.model import Verb
from microagent.policy.parse import MAX_BYTES, MAX_PROBLEMS, parse_bytes, parse_file


def problems(text: str, filename: str = "p.yaml") -> tuple[Problem, ...]:
    with pytest.raises(PolicyError) as caught:
        parse_file(text, filename)
    return caught.value.problems


def places(text: str, filename: str = "p.yaml") -> list[tuple[int, int, str]]:
    return [(problem.line, problem.column, problem.what) for problem in problems(text, filename)]


def test_a_yaml_file() -> None:
    text = """\
# what the agent needs
allow:
  - api.ok.test      # exact
  - ".sfx.test"
  - 10.20.0.0/16
passthrough: [pin.test, '2001:db8::7']
"""
    entries = parse_file(text, "p.yaml")
    assert [(str(entry), entry.origin) for entry in entries] == [
        ("allow: api.ok.test", "p.yaml:3:5"),
        ("allow: .sfx.test", "p.yaml:4:5"),
        ("allow: 10.20.0.0/16", "p.yaml:5:5"),
        ("passthrough: pin.test", "p.yaml:6:15"),
        ("passthrough: 2001:db8::7", "p.yaml:6:25"),
    ]


def test_a_json_file() -> None:
    text = '{"allow": ["api.ok.test",\n\t".sfx.t\\u0065st"],\r\n "passthrough": [ ] }\n'
    entries = parse_file(text, "p.json")
    assert [(str(entry), entry.origin) for entry in entries] == [
        ("allow: api.ok.test", "p.json:1:12"),
        ("allow: .sfx.test", "p.json:2:2"),
    ]


@pytest.mark.parametrize("text", ["allow: []", "{}", "passthrough: []", "---\nallow: []\n...\n", "%YAML 1.1\n---\n{}"])
def test_files_without_entries(text: str) -> None:
    assert parse_file(text, "p.yml") == ()


def test_lists_may_overlap_and_repeat() -> None:
    entries = parse_file("allow: [a.test, a.test]\npassthrough: [a.test]", "p.yaml")
    assert [entry.verb for entry in entries] == [Verb.ALLOW, Verb.ALLOW, Verb.PASSTHROUGH]


@pytest.mark.parametrize(
    ("yaml_text", "json_text", "what", "hint"),
    [
        ("", "", "the file is empty", "allow: []"),
        ("# nothing\n", " \n", "the file is empty", "allow: []"),
        ("null", "null", "the file is empty", "allow: []"),
        ("- a.test", '["a.test"]', "a list where a policy file has a mapping", "allow: [api.example.org]"),
        ("a.test", '"a.test"', "a string where a policy file has a mapping", "allow: [api.example.org]"),
        ("17", "17", "a number where a policy file has a mapping", "allow: [api.example.org]"),
        ("allowed: []", '{"allowed": []}', "unknown key 'allowed'", "did you mean 'allow'?"),
        ("Allow: []", '{"Allow": []}', "unknown key 'Allow'", "did you mean 'allow'?"),
        ("allow_list: []", '{"allow_list": []}', "unknown key 'allow_list'", "did you mean 'allow'?"),
        ("pass-through: []", '{"pass-through": []}', "unknown key 'pass-through'", "did you mean 'passthrough'?"),
        ("passthru: []", '{"passthru": []}', "unknown key 'passthru'", "did you mean 'passthrough'?"),
        ("deny: []", '{"deny": []}', "unknown key 'deny'", "there is no deny list"),
        ("mode: strict", '{"mode": "strict"}', "unknown key 'mode'", "the flag --egress"),
        ("egress: {}", '{"egress": {}}', "unknown key 'egress'", "at the top"),
        ("hosts: []", '{"hosts": []}', "unknown key 'hosts'", "the keys are 'allow' and 'passthrough'"),
        ("allow:", '{"allow": null}', "'allow' has no list", "allow: []"),
        ("allow: ~", '{"allow": null}', "'allow' has no list", "allow: []"),
        ("allow: a.test", '{"allow": "a.test"}', "'allow' is a string, not a list", "allow: [a.test]"),
        ("allow: {a: b}", '{"allow": {"a": "b"}}', "'allow' is a mapping, not a list", "allow: [api.example.org]"),
        ("allow: true", '{"allow": true}', "'allow' is a boolean, not a list", "allow: [api.example.org]"),
        ("allow: [null]", '{"allow": [null]}', "an empty entry", "write a name"),
        ("allow: ['']", '{"allow": [""]}', "an empty entry", "write a name"),
        ("allow:\n  -\n", '{"allow": [null]}', "an empty entry", "write a name"),
        ("allow: [443]", '{"allow": [443]}', "'443' is a number, not a string", 'write "443", in quotes'),
        ("allow: [1.5]", '{"allow": [1.5]}', "'1.5' is a number, not a string", "in quotes"),
        ("allow: [true]", '{"allow": [true]}', "'true' is a boolean, not a string", "in quotes"),
        ("allow: [[a.test]]", '{"allow": [["a.test"]]}', "a list where an entry should be", "one string"),
        ("allow: [{a: b}]", '{"allow": [{"a": "b"}]}', "a mapping where an entry should be", "one string"),
        ("allow: [api.test:443]", '{"allow": ["api.test:443"]}', "'api.test:443' has a port in it", "api.test"),
        (
            "allow: [a\\b.test]",
            '{"allow": ["a\\\\b.test"]}',
            "'a\\\\b.test' is not a host name: byte 0x5c in a host name",
            "letters",
        ),
    ],
)
def test_the_same_fault_in_both_formats(yaml_text: str, json_text: str, what: str, hint: str) -> None:
    for text, filename in ((yaml_text, "p.yaml"), (json_text, "p.json")):
        (problem,) = problems(text, filename)
        assert problem.what == what
        assert hint in problem.hint
        assert problem.hint[0].islower()
        assert problem.source == filename


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("allow: [2024-01-01]", "'2024-01-01' is a date, not a string"),
        ("allow: [yes]", "'yes' is a boolean, not a string"),
        ("allow: [2001:10:20:30:40:50:1:2]", "'2001:10:20:30:40:50:1:2' is a number, not a string"),
        ("allow: !!python/object/apply:os.system []", "a tag, tag:yaml.org,2002:python/object/apply:os.system"),
        ("allow: [!!str a.test]", "a tag, tag:yaml.org,2002:str"),
        ("allow: [! a.test]", "a tag, !"),
        ("!!map {allow: []}", "a tag, tag:yaml.org,2002:map"),
        ("allow: &a []", "an anchor, &a"),
        ("allow: [&a a.test]", "an anchor, &a"),
        ("{}\n---\n{}", "a second document"),
        ("{}\n--- \nnot: [closed", "a second document"),
        ("allow: []\n? [a]\n: []", "a list as a key"),
        ("allow: []\n1: []", "unknown key '1'"),
        ("allow: []\n<<: {}", "unknown key '<<'"),
    ],
)
def test_faults_that_only_yaml_has(text: str, what: str) -> None:
    (problem,) = problems(text)
    assert problem.what == what
    assert problem.hint[0].islower()


def test_a_wildcard_is_an_alias_to_yaml() -> None:
    (problem,) = problems("allow:\n  - *.b.test")
    assert problem.hint.startswith("in YAML a * begins an alias; for *.example.org write .example.org ")
    (problem,) = problems("allow:\n\t- b.test")
    assert "indent with spaces, not tabs" in problem.hint
    (problem,) = problems("allow: [b.test")
    assert "a policy file reads" in problem.hint


def test_an_alias_is_not_followed() -> None:
    assert places("allow: &a [a.test]\npassthrough: *a") == [
        (1, 8, "an anchor, &a"),
        (2, 14, "an alias, *a"),
        (2, 14, "'passthrough' is an alias, not a list"),
    ]


def test_ten_billion_laughs() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    )
    assert len(problems(bomb)) == MAX_PROBLEMS + 1


@pytest.mark.parametrize(
    ("text", "line", "column", "what"),
    [
        ("allow:\n\t- a.test", 2, 1, "cannot start any token"),
        ("allow: [a.test", 2, 1, "not YAML"),
        ("allow: [a.test]]", 1, 16, "not YAML"),
        ("allow: *", 1, 9, "not YAML"),
        ("allow: [a.test, *.b.test]", 1, 18, "not YAML"),
        ("a: b: c", 1, 5, "not YAML"),
    ],
)
def test_what_is_not_yaml(text: str, line: int, column: int, what: str) -> None:
    (problem,) = problems(text)
    assert what in problem.what
    assert (problem.line, problem.column) == (line, column)
    assert problem.hint[0].islower()


@pytest.mark.parametrize(
    ("text", "line", "column", "what"),
    [
        ('{"allow": ["a.test",]}', 1, 21, "expected a value"),
        ('{"allow": ["a.test"],}', 1, 22, "expected a value"),
        ('{"allow" ["a.test"]}', 1, 10, "expected a colon"),
        ('{"allow": ["a.test" "b.test"]}', 1, 21, "expected a comma or ]"),
        ('{"allow": []} {}', 1, 15, "expected the end of the file"),
        ("{'allow': []}", 1, 2, "expected a value"),
        ('{"allow": []', 1, 13, "expected a comma or }"),
        ('{"allow": [', 1, 12, "expected a value"),
        ("{1: []}", 1, 3, "expected a key in double quotes before this"),
        ('{"allow": [01]}', 1, 13, "expected a comma or ]"),
        ('{"allow": [NaN]}', 1, 12, "expected a value"),
        ('{\n "allow": [\n"a\tb"]}', 3, 1, "expected a value"),
        ('{"allow": ["\\x41"]}', 1, 12, "expected a value"),
        ('// comment\n{"allow": []}', 1, 1, "expected a value"),
        ("allow: []", 1, 1, "expected a value"),
    ],
)
def test_what_is_not_json(text: str, line: int, column: int, what: str) -> None:
    (problem,) = problems(text, "p.json")
    assert problem.what == f"not JSON: {what}"
    assert (problem.line, problem.column) == (line, column)
    assert problem.hint[0].islower()
    with pytest.raises(ValueError, match=r".+"):
        json.loads(text, parse_constant=lambda name: int(name))


def test_every_problem_at_once_in_the_order_of_the_file() -> None:
    text = "allow:\n  - https://a.test\n  - b.test\n  - 10.0.0.300\nalow: []\nallow: [c.test:1]\npassthrough:\n"
    assert places(text) == [
        (2, 5, "'https://a.test' has a scheme in it"),
        (4, 5, "'10.0.0.300' is not an IPv4 address"),
        (5, 1, "unknown key 'alow'"),
        (6, 1, "duplicate key 'allow'"),
        (6, 9, "'c.test:1' has a port in it"),
        (7, 1, "'passthrough' has no list"),
    ]
    assert problems(text)[3].hint == "it is also on line 1: put both lists into one"


def test_duplicate_keys_in_json() -> None:
    assert places('{"allow": [],\n "allow": []}', "p.json") == [(2, 2, "duplicate key 'allow'")]
    assert places('{"allow": [],\n "\\u0061llow": []}', "p.json") == [(2, 2, "duplicate key 'allow'")]


def test_problems_show_as_compilers_write_them() -> None:
    (problem,) = problems("allow: [a.test:1]")
    assert str(problem) == "p.yaml:1:9: 'a.test:1' has a port in it"


def test_too_many_problems_are_counted() -> None:
    found = problems("allow: [" + ", ".join(["':'"] * 50) + "]")
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1].what == f"and {50 - MAX_PROBLEMS} more problems"
    exactly = problems("allow: [" + ", ".join(["':'"] * MAX_PROBLEMS) + "]")
    assert len(exactly) == MAX_PROBLEMS


NESTS: list[Callable[[int], str]] = [
    lambda n: "[" * n,
    lambda n: "{a: " * n,
    lambda n: "".join("  " * level + "a:\n" for level in range(min(n, 1000))),
    lambda n: "- " * n,
    lambda n: '{"a":' * n,
    lambda n: "[" * n + "]" * n,
]


@pytest.mark.parametrize("filename", ["p.yaml", "p.json"])
@pytest.mark.parametrize("nest", NESTS)
def test_deep_files_are_left_at_once(nest: Callable[[int], str], filename: str) -> None:
    (problem,) = problems(nest(500_000), filename)
    # libyaml since 0.2.6 and the json module have bounds of their own, which may come first.
    assert re.search("nested more than 8 deep|^not JSON|maximum nesting depth", problem.what)


@pytest.mark.parametrize("filename", ["p.yaml", "p.json"])
def test_how_deep_is_too_deep(filename: str) -> None:
    (problem,) = problems("[" * 8 + "1" + "]" * 8, filename)
    assert problem.what == "a list where a policy file has a mapping"
    (problem,) = problems("[" * 9 + "1" + "]" * 9, filename)
    assert (problem.what, problem.hint) == ("nested more than 8 deep", "a policy is two deep")
    assert (problem.line, problem.column) == (1, 9)


def test_json_without_spaces() -> None:
    text = '{"allow":["a.test","b.test"],"passthrough":[]}'
    assert [entry.origin for entry in parse_file(text, "p.json")] == ["p.json:1:11", "p.json:1:20"]


def test_what_is_too_large_is_not_parsed() -> None:
    """At the limit it is; the difference shows in which problem is found."""
    (problem,) = problems("[" * (MAX_BYTES + 1024))
    assert problem.what == "4097 KiB, the limit is 4096"
    (problem,) = problems("[" * MAX_BYTES)
    assert re.search("nested|nesting", problem.what)
    with pytest.raises(PolicyError, match="the limit is 4096"):
        parse_bytes(b"#" * 10 * 1024 * 1024, "p.yaml")
    with pytest.raises(PolicyError, match="the limit is 4096"):
        parse_bytes("ü".encode() * (MAX_BYTES // 2 + 1024), "p.yaml")


@pytest.mark.parametrize("filename", ["policy", "policy.toml", "yaml", "policy.yaml.bak", ""])
def test_other_names_are_not_policy_files(filename: str) -> None:
    (problem,) = problems("allow: []", filename)
    assert problem.hint == "name it .yaml, .yml or .json"


@pytest.mark.parametrize("filename", ["p.yaml", "P.YML", "dir.d/p.json"])
def test_the_end_of_the_name_decides(filename: str) -> None:
    assert parse_file("{}", filename) == ()


def test_bytes() -> None:
    assert [entry.text for entry in parse_bytes("\ufeffallow: [bücher.test]".encode(), "p.yaml")] == [
        "xn--bcher-kva.test"
    ]
    assert parse_bytes(b'\xef\xbb\xbf{"allow": []}', "p.json") == ()
    for raw, line in ((b"allow:\n  - \xff.test", 2), ("allow: []".encode("utf-16"), 1)):
        with pytest.raises(PolicyError) as caught:
            parse_bytes(raw, "p.yaml")
        (problem,) = caught.value.problems
        assert (problem.what, problem.hint, problem.line) == ("not UTF-8 text", "save the file as UTF-8", line)


@pytest.mark.parametrize("text", ["allow: [\ud800]", "allow: ['\x00']", "\x1b[31m", "allow: [a\x07]", "\ufffe"])
@pytest.mark.parametrize("filename", ["p.yaml", "p.json"])
def test_characters_that_are_not_text(text: str, filename: str) -> None:
    for problem in problems(text, filename):
        assert problem.what.isprintable()


def test_nothing_is_half_applied() -> None:
    with pytest.raises(PolicyError):
        parse_file("allow: [a.test, b.test, 'c d']", "p.yaml")
