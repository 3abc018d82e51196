import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.errors import Malformed
from microagent.guests.oci import ImageConfig, choose, descriptor, parse_config, parse_document

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def entry(digest: str = DIGEST, **more: object) -> dict[str, Any]:
    return {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 7, **more}


def tagged(tag: str, digest: str) -> dict[str, Any]:
    return entry(digest, annotations={"org.opencontainers.image.ref.name": tag})


def test_a_config_says_how_to_run_the_image() -> None:
    config = {"Entrypoint": ["/entry"], "Cmd": ["a", "b"], "Env": ["A=1", "B=x=y"], "WorkingDir": "/srv", "User": "me"}
    parsed = parse_config(json.dumps({"config": config}).encode())
    assert parsed == ImageConfig(("/entry",), ("a", "b"), {"A": "1", "B": "x=y"}, "/srv", "me")
    assert parsed.argv([]) == ["/entry", "a", "b"]
    assert parsed.argv(["c"]) == ["/entry", "c"]


@pytest.mark.parametrize("config", [None, {}, {"Entrypoint": None, "Cmd": None, "Env": None, "User": None}])
def test_a_config_may_say_nothing(config: object) -> None:
    parsed = parse_config(json.dumps({"config": config}).encode())
    assert parsed == ImageConfig()
    assert parsed.argv([]) == []


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"Cmd": "sh"},
        {"Cmd": [1]},
        {"Cmd": ["a\0"]},
        {"Env": ["A"]},
        {"Env": ["=1"]},
        {"User": 1},
        {"WorkingDir": []},
    ],
)
def test_a_config_of_the_wrong_shape_is_malformed(config: object) -> None:
    with pytest.raises(Malformed):
        parse_config(json.dumps({"config": config}).encode())


def test_a_tag_chooses_and_without_one_the_only_image_or_this_machines() -> None:
    two = {"manifests": [tagged("one", DIGEST), tagged("two", OTHER)]}
    assert choose(two, "two").digest == OTHER
    with pytest.raises(Malformed, match="several images"):
        choose(two, "")
    with pytest.raises(Malformed, match="no image tagged 'three'"):
        choose(two, "three")
    assert choose({"manifests": [tagged("one", DIGEST)]}, "").digest == DIGEST
    arm = entry(OTHER, platform={"os": "linux", "architecture": "arm64"})
    amd = entry(DIGEST, platform={"os": "linux", "architecture": "amd64"})
    assert choose({"manifests": [arm, amd]}, "").digest == DIGEST
    with pytest.raises(Malformed, match="linux/amd64"):
        choose({"manifests": [arm, arm]}, "")


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../etc/shadow", "sha512:" + "a" * 64, DIGEST.upper(), 1])
def test_a_digest_is_64_hex_digits_and_so_no_path(digest: object) -> None:
    with pytest.raises(Malformed):
        descriptor({"digest": digest, "size": 1})


@given(st.binary() | st.text().map(str.encode) | st.just(b"[" * 100_000))
def test_any_bytes_are_a_document_or_malformed(data: bytes) -> None:
    try:
        parse_document(data)
    except Malformed:
        return
