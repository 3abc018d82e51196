import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microagent.api.reference import Kind, Local, Reference, absolute, is_loopback, parse_image, parse_reference
from microagent.errors import ApiError

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12", "docker.io/library/python:3.12"),
        ("grafana/grafana", "docker.io/grafana/grafana:latest"),
        ("docker.io/python:3.12", "docker.io/library/python:3.12"),
        ("docker.io/library/python:3.12", "docker.io/library/python:3.12"),
        ("index.docker.io/python", "docker.io/library/python:latest"),
        ("registry.example.org/a", "registry.example.org/a:latest"),
        ("registry.example.org/a/b/c:v1", "registry.example.org/a/b/c:v1"),
        ("registry.example.org:5000/a", "registry.example.org:5000/a:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("corp:5000/x", "corp:5000/x:latest"),
        ("CORP/x", "CORP/x:latest"),
        ("corp/x", "docker.io/corp/x:latest"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("[2001:db8::7]/x", "[2001:db8::7]/x:latest"),
        (f"python@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
        (f"python:3.12@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
        (f"localhost:5000/x:y@{DIGEST}", f"localhost:5000/x@{DIGEST}"),
        ("localhost/a.b_c__d-e--f/g0", "localhost/a.b_c__d-e--f/g0:latest"),
        ("x:_Tag.1-2", "docker.io/library/x:_Tag.1-2"),
    ],
)
def test_what_is_left_out_is_dockers(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole
    assert parse_image(text) == parse_reference(text)


def test_the_parts_of_a_reference() -> None:
    found = parse_reference(f"localhost:5000/a/b:y@{DIGEST}")
    assert found == Reference("localhost:5000", "a/b", "y", DIGEST)
    assert found.name == "localhost:5000/a/b"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no name"),
        (" python", "no name"),
        ("python ", "no name"),
        ("python\n", "no name"),
        ("python:3.12\n", "no tag"),
        ("Python", "upper case"),
        ("a/B", "upper case"),
        ("python:", "no tag"),
        ("python:3.12:1", "no tag"),
        ("python:-1", "no tag"),
        ("python:" + "x" * 129, "no tag"),
        ("python@", "no sha256 digest"),
        ("python@sha256:abc", "no sha256 digest"),
        ("python@sha512:" + "0" * 128, "no sha256 digest"),
        (f"python@{DIGEST.upper()}", "no sha256 digest"),
        (f"python@{DIGEST}\n", "no sha256 digest"),
        (f"python@{DIGEST}@{DIGEST}", "no sha256 digest"),
        ("0a" * 32, "digest without its name"),
        ("https://registry.example.org/x", "scheme"),
        ("docker://python", "scheme"),
        ("a//b", "no name"),
        ("a/", "no name"),
        ("-x", "no name"),
        ("a/../b", "no name"),
        ("a/-b", "no name"),
        ("a___b", "no name"),
        ("a..b", "no name"),
        ("pythön", "no name"),
        ("рython", "no name"),
        ("python\0", "no name"),
        ("registry.example.org:0/x", "no port"),
        ("registry.example.org:65536/x", "no port"),
        ("registry.example.org:5_0/x", "no port"),
        ("registry.example.org:٣/x", "no port"),
        ("registry.example.org:/x", "no port"),
        ("-registry.example.org/x", "no registry"),
        ("registry..example.org/x", "no registry"),
        ("user@registry.example.org/x", "no sha256 digest"),
        ("a.b_c/x", "no registry"),
        ("[::1/x", "no registry"),
        ("[::1%lo]/x", "no registry"),
        ("[127.0.0.1]/x", "no registry"),
        ("registry.example.org/" + "a" * 240, "longer than 255"),
    ],
)
def test_anything_else_is_refused_and_says_which_part(text: str, why: str) -> None:
    with pytest.raises(ApiError, match=re.escape(why)) as error:
        parse_image(text)
    assert error.value.code == "invalid"


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("/srv/rootfs", Local(Kind.ROOTFS_OR_LAYOUT, "/srv/rootfs")),
        ("./rootfs", Local(Kind.ROOTFS_OR_LAYOUT, "./rootfs")),
        ("../rootfs", Local(Kind.ROOTFS_OR_LAYOUT, "../rootfs")),
        (".", Local(Kind.ROOTFS_OR_LAYOUT, ".")),
        ("/srv/layout:v1", Local(Kind.ROOTFS_OR_LAYOUT, "/srv/layout:v1")),
        ("oci:layout", Local(Kind.LAYOUT, "layout")),
        ("oci:/srv/layout:v1", Local(Kind.LAYOUT, "/srv/layout", "v1")),
        ("docker-archive:a.tar", Local(Kind.DOCKER_ARCHIVE, "a.tar")),
        ("docker-archive:a:name:tag", Local(Kind.DOCKER_ARCHIVE, "a", "name:tag")),
        ("saved.tar", Local(Kind.DOCKER_ARCHIVE, "saved.tar")),
        ("/srv/saved.tar", Local(Kind.DOCKER_ARCHIVE, "/srv/saved.tar")),
    ],
)
def test_a_path_is_a_path(text: str, local: Local) -> None:
    assert parse_image(text) == local


def test_a_prefix_without_a_path_is_refused() -> None:
    for text in ("oci:", "docker-archive:", "oci::tag"):
        with pytest.raises(ApiError, match="names no file"):
            parse_image(text)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("python:3.12", "python:3.12"),
        ("./rootfs", "/home/me/rootfs"),
        ("../rootfs", "/home/me/../rootfs"),
        ("/srv/rootfs", "/srv/rootfs"),
        ("oci:layout:v1", "oci:/home/me/layout:v1"),
        ("docker-archive:a", "docker-archive:/home/me/a"),
        ("saved.tar", "docker-archive:/home/me/saved.tar"),
        ("No Image", "No Image"),
    ],
)
def test_a_path_becomes_absolute_and_nothing_else_does(text: str, there: str) -> None:
    assert absolute(text, "/home/me") == there


@pytest.mark.parametrize(
    ("registry", "here"),
    [
        ("localhost", True),
        ("LOCALHOST:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("[::1]", True),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org:5000", False),
        ("192.0.2.1:5000", False),
        ("[2001:db8::7]:5000", False),
        ("docker.io", False),
        ("127.1", False),
    ],
)
def test_only_loopback_is_this_machine(registry: str, here: bool) -> None:
    assert is_loopback(registry) is here


@given(st.text(alphabet="aA0.-_/:@[]%\n é", max_size=30) | st.text())
def test_any_text_is_a_reference_that_reads_as_itself_or_is_refused(text: str) -> None:
    try:
        found = parse_reference(text)
    except ApiError as error:
        assert error.code == "invalid"  # noqa: PT017  (the other outcome is checked below)
        return
    assert parse_reference(str(found)) == Reference(
        found.registry, found.repository, "" if found.digest else found.tag, found.digest
    )
    # What reaches skopeo's command line is one word that is no option.
    assert re.fullmatch(r"[A-Za-z0-9.:\[\]-]+/[a-z0-9._/-]+(:[A-Za-z0-9_.-]+|@sha256:[0-9a-f]{64})", str(found))
    assert not str(found).startswith("-")


_REGISTRIES = st.sampled_from(["", "docker.io/", "localhost/", "localhost:5000/", "registry.example.org/", "[::1]:9/"])
_NAMES = st.from_regex(r"\A[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,5}){0,2}\Z")
_TAGS = st.just("") | st.from_regex(r"\A:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}\Z")
_DIGESTS = st.just("") | st.from_regex(r"\A@sha256:[0-9a-f]{64}\Z")


@given(_REGISTRIES, _NAMES, _TAGS, _DIGESTS)
def test_what_is_well_formed_is_taken_and_keeps_its_parts(registry: str, name: str, tag: str, digest: str) -> None:
    # Without a registry the first part may look like one.
    if not registry and "/" in name and "." in name.partition("/")[0]:
        return
    found = parse_reference(f"{registry}{name}{tag}{digest}")
    assert found.registry == (registry or "docker.io/")[:-1]
    assert found.repository.endswith(name)
    assert (found.tag, found.digest) == (tag[1:] or ("" if digest else "latest"), digest[1:])
