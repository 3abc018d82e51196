import base64
import json
from pathlib import Path
from typing import Any

import pytest

from microagent.cli.credentials import credential_for
from microagent.errors import ApiError

AUTH = base64.b64encode(b"me:secret").decode()


def config(home: Path, document: Any) -> dict[str, str]:
    """The environment of a user with this configuration."""
    (home / ".docker").mkdir(exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document)
    (home / ".docker/config.json").write_text(text)
    return {"HOME": str(home)}


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("registry.example.org", "registry.example.org"),
        ("https://registry.example.org", "registry.example.org"),
        ("https://registry.example.org/v2/", "registry.example.org"),
        ("registry.example.org:5000", "registry.example.org:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
    ],
)
def test_the_entry_of_a_registry_is_found_however_it_was_written(tmp_path: Path, key: str, registry: str) -> None:
    environment = config(
        tmp_path, {"auths": {"other.example.org": {"auth": "eA=="}, key: {"auth": AUTH, "email": "x"}}}
    )
    assert credential_for(registry, environment) == {"auth": AUTH}


@pytest.mark.parametrize(
    "registry",
    ["example.org", "registry.example.org:5000", "evil-registry.example.org", "registry.example.org.test", "docker.io"],
)
def test_no_other_registry_gets_it(tmp_path: Path, registry: str) -> None:
    environment = config(tmp_path, {"auths": {"https://registry.example.org/v2/": {"auth": AUTH}}})
    assert credential_for(registry, environment) is None


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        None,
        {"auths": []},
        {"auths": {"a.test": None}},
        {"auths": {"a.test": {}}},
        {"auths": {"a.test": {"auth": 1}}},
    ],
)
def test_who_has_none_has_none(tmp_path: Path, document: Any) -> None:
    assert credential_for("a.test", config(tmp_path, document)) is None


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert credential_for("a.test", {"HOME": str(tmp_path)}) is None
    assert credential_for("a.test", {"DOCKER_CONFIG": "/dev/null"}) is None


def test_docker_config_says_where_to_look(tmp_path: Path) -> None:
    config(tmp_path, {"auths": {"a.test": {"auth": AUTH}}})
    assert credential_for("a.test", {"HOME": "/nowhere", "DOCKER_CONFIG": str(tmp_path / ".docker")}) == {"auth": AUTH}


def test_a_token_goes_along(tmp_path: Path) -> None:
    entries = {"a.test": {"identitytoken": "t"}, "b.test": {"auth": AUTH, "identitytoken": "t"}}
    environment = config(tmp_path, {"auths": entries})
    found = credential_for("a.test", environment)
    assert found == {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": "t"}
    assert credential_for("b.test", environment) == {"auth": AUTH, "identitytoken": "t"}


def test_a_file_that_is_none_says_which_and_not_what_is_in_it(tmp_path: Path) -> None:
    environment = config(tmp_path, "{ secret")
    with pytest.raises(ApiError) as error:
        credential_for("a.test", environment)
    assert str(tmp_path / ".docker/config.json") in error.value.what
    assert "secret" not in error.value.what + error.value.hint


def helper(directory: Path, name: str, script: str) -> None:
    program = directory / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"Username": "me", "Secret": "secret"}, {"auth": AUTH}),
        (
            {"Username": "<token>", "Secret": "t"},
            {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": "t"},
        ),
    ],
)
def test_a_helper_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, found: Any) -> None:
    helper(tmp_path, "x", f"[ \"$1 $(cat)\" = 'get a.test' ] && echo '{json.dumps(answer)}'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for document in ({"credsStore": "x", "auths": {"a.test": {}}}, {"credHelpers": {"a.test": "x"}}):
        assert credential_for("a.test", config(tmp_path, document)) == found
    assert credential_for("b.test", config(tmp_path, {"credHelpers": {"a.test": "x"}})) is None


def test_a_helper_that_knows_nothing_and_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    helper(tmp_path, "empty", "echo 'credentials not found in native keychain'; exit 1")
    assert credential_for("a.test", config(tmp_path, {"credsStore": "empty"})) is None
    helper(tmp_path, "broken", "echo secret; exit 1")
    for name in ("broken", "missing", "../../bin/sh", "a b"):
        with pytest.raises(ApiError) as error:
            credential_for("a.test", config(tmp_path, {"credsStore": name}))
        assert "secret" not in error.value.what + error.value.hint
