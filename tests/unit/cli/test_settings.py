"""Flags and files become the API's settings object."""

from pathlib import Path
from typing import Any

import pytest
from tests.kernel.certificates import certify

from microagent.cli.egress_options import OFF_WARNING, egress_json
from microagent.cli.settings import settings_json
from microagent.errors import ApiError, MicroagentError, PolicyError

EGRESS = {"mode": "guarded", "entries": []}


def made(tmp_path: Path, text: str = "", **flags: Any) -> dict[str, Any]:
    file = tmp_path / "microagent.yaml"
    file.write_text(text)
    given: dict[str, Any] = {
        "image": None,
        "command": (),
        "env": (),
        "memory_mib": None,
        "cpus": None,
        "disk_mib": None,
    }
    given |= {"upstream_ca": ()} | flags
    return settings_json("a", egress=EGRESS, file=str(file), **given)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    text = "image: base\ncommand: [sleep, '1']\nenv: {A: '1', B: '2'}\nmemory: 256\ncpus: 2\ndisk: 512\n"
    text += "entrypoint: [nice]\nsetup:\n  - apt-get update\n"
    assert made(tmp_path, text, env=("A=9",), cpus=4) == {
        "name": "a",
        "egress": EGRESS,
        "image": "base",
        "command": ["sleep", "1"],
        "env": {"A": "9", "B": "2"},
        "memory_mib": 256,
        "cpus": 4,
        "disk_mib": 512,
        "entrypoint": ["nice"],
        "setup": ["apt-get update"],
    }


@pytest.mark.parametrize("key", ["egress", "egress-allow", "egress_policy", "Egress"])
def test_egress_in_the_file_is_an_error_that_says_so(tmp_path: Path, key: str) -> None:
    with pytest.raises(PolicyError) as caught:
        made(tmp_path, f"image: base\n{key}: strict\n")
    assert ":2:1:" in caught.value.what
    assert "configured by flags and policy file" in caught.value.what
    assert "--egress" in caught.value.hint


def test_all_that_is_wrong_in_a_file_is_named_with_its_place(tmp_path: Path) -> None:
    text = "image: base\nmemory: lots\ncpus: 99\nenv: [A]\nsetup: apt-get update\ncommand: ['a', 1]\nname: Bad Name\n"
    with pytest.raises(PolicyError) as caught:
        made(tmp_path, text)
    assert [(p.line, p.column) for p in caught.value.problems] == [(n, 1) for n in range(2, 8)]
    first, second, *_ = caught.value.what.splitlines()
    assert first.endswith("microagent.yaml:2:1: memory: not a whole number from 64 to 1048576")
    assert second.endswith("microagent.yaml:3:1: cpus: not a whole number from 1 to 64")
    assert "as a list of shell commands" in caught.value.hint


def test_which_of_several_is_wrong_is_said(tmp_path: Path) -> None:
    """YAML reads a number, or a mapping, where people mean text."""
    text = "image: base\nenv: {A: a, N: 3}\nsetup: [ls, echo a: b]\ncommand: [sleep, 10]\n"
    with pytest.raises(PolicyError) as caught:
        made(tmp_path, text)
    said = [(p.what, p.hint) for p in caught.value.problems]
    assert [what for what, _ in said] == [
        "env: N is not a string",
        "setup: item 2 is not a string",
        "command: item 2 is not a string",
    ]
    assert all("quotes" in hint or '"value"' in hint for _, hint in said)


def test_wrong_keys_do_not_hide_wrong_values(tmp_path: Path) -> None:
    text = "image: base\ncpu: 2\ncpus: 0\nimage: other\ndisk: -5\nmemory:\n"
    with pytest.raises(PolicyError) as caught:
        made(tmp_path, text)
    said = [line.partition("microagent.yaml:")[2] for line in caught.value.what.splitlines()]
    assert said == [
        "2:1: unknown key 'cpu'",
        "3:1: cpus: not a whole number from 1 to 64",
        "4:1: image is there twice",
        "5:1: disk: not a whole number from 64 to 16777216",
        "6:8: no value",
    ]


@pytest.mark.parametrize("text", ["image: base\nname: b\n", "cpus: 1\n", "image: base\nenv: [A]\n", "imag: base\n"])
def test_files_that_cannot_be(tmp_path: Path, text: str) -> None:
    with pytest.raises(MicroagentError):
        made(tmp_path, text)


def test_roots_are_read_and_checked_at_once(tmp_path: Path) -> None:
    root = certify("root", None, ca=True)
    one, two = tmp_path / "one.pem", tmp_path / "two.pem"
    one.write_text("# a root\n" + root.pem)
    two.write_bytes(b"\x30\x82")
    assert made(tmp_path, image="base", upstream_ca=(str(one), str(one)))["upstream_ca"] == root.pem * 2
    for file in (two, tmp_path / "none.pem", tmp_path):
        with pytest.raises(ApiError, match=f"--upstream-ca: .*{file.name}"):
            made(tmp_path, image="base", upstream_ca=(str(file),))


def test_paths_are_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert made(tmp_path, image="./rootfs")["image"] == str(tmp_path / "rootfs")
    assert made(tmp_path, image="base")["image"] == "base"


def test_a_variable_without_value_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "a=b")
    monkeypatch.delenv("NONE", raising=False)
    assert made(tmp_path, image="base", env=("TOKEN", "NONE", "X=", "Y=1=2"))["env"] == {
        "TOKEN": "a=b",
        "X": "",
        "Y": "1=2",
    }
    with pytest.raises(ApiError):
        made(tmp_path, image="base", env=("=x",))


def test_an_empty_mode_is_guarded() -> None:
    assert egress_json("", (), (), None) == EGRESS


def test_off_warns_and_takes_no_policy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert egress_json("off", (), (), None)["mode"] == "off"
    assert capsys.readouterr().err == f"{OFF_WARNING}\n"
    empty = tmp_path / "policy.yaml"
    empty.write_text("allow: []\n")
    for policy in ((("a.example",), (), None), ((), ("a.example",), None), ((), (), str(empty))):
        with pytest.raises(ApiError, match="no policy can apply"):
            egress_json("off", *policy)


def test_flags_and_file_are_united_with_their_origins(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("allow:\n  - b.example.org\n")
    found = egress_json("strict", ("a.example.org",), ("c.example.org",), str(policy))
    assert [(e["verb"], e["entry"], e["origin"]) for e in found["entries"]] == [
        ("allow", "a.example.org", "--egress-allow"),
        ("passthrough", "c.example.org", "--egress-passthrough"),
        ("allow", "b.example.org", f"{policy}:2:5"),
    ]


def test_every_wrong_entry_is_named(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("allow: ['*.c.example']\n")
    with pytest.raises(PolicyError) as caught:
        egress_json("strict", ("https://a.example",), ("*",), str(policy))
    assert len(caught.value.problems) == 3
