"""What people write for an image, read strictly. Pure.

How this works. A path (`./DIR`, `/DIR`, `oci:DIR:TAG`, `docker-archive:FILE`, anything that ends in .tar) is a file's.
Everything else is a name in a registry, read by the rules of Docker (the grammar is distribution/reference's): without
a registry it is Docker Hub's, there without a directory it is in `library`, without tag and digest it is `latest`. A
built-in image has a name of the same form (`base`); that it is one, only the agent knows, and then it wins.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import PurePosixPath

from microagent.errors import ApiError

DOCKER_HUB = "docker.io"
# What `docker login` and old references call it.
_HUB_NAMES = ("index.docker.io", "registry-1.docker.io")
_OFFICIAL = "library"
_LATEST = "latest"
_LONGEST_NAME = 255

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry.

    `tag` or `digest` ("sha256:" and 64 hex digits) is given; where both are, the digest counts. `registry` is a host,
    with `:port` where one was written.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        """The whole of it, nothing left to default; reads as the same reference again."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


class Kind(StrEnum):
    """What lies at a path."""

    ROOTFS_OR_LAYOUT = ""
    LAYOUT = "oci"
    DOCKER_ARCHIVE = "docker-archive"


@dataclass(frozen=True, slots=True)
class Local:
    """An image on this machine's disk. `path` is as written; `tag` chooses among several, "" if none was written."""

    kind: Kind
    path: str
    tag: str = ""

    def __str__(self) -> str:
        """As it is written."""
        prefix = f"{self.kind}:" if self.kind else ""
        return f"{prefix}{self.path}:{self.tag}" if self.tag else f"{prefix}{self.path}"


def parse_image(text: str) -> Reference | Local:
    """What `text` names; ApiError `invalid` when it is neither a path nor a reference."""
    for kind in (Kind.LAYOUT, Kind.DOCKER_ARCHIVE):
        if text.startswith(f"{kind}:"):
            # No path of ours has a colon, as with skopeo: it separates the tag.
            path, _, tag = text.removeprefix(f"{kind}:").partition(":")
            if not path:
                raise _wrong(text, "names no file", f"write {kind}:PATH or {kind}:PATH:TAG")
            return Local(kind, path, tag)
    if text.endswith(".tar"):
        return Local(Kind.DOCKER_ARCHIVE, text)
    if text.startswith(("/", "./", "../")) or text in (".", ".."):
        return Local(Kind.ROOTFS_OR_LAYOUT, text)
    return parse_reference(text)


def absolute(text: str, directory: str) -> str:
    """The same image, with a path taken from `directory`; what is no path, or wrong, stays as it is."""
    try:
        image = parse_image(text)
    except ApiError:
        return text
    if isinstance(image, Reference):
        return text
    return str(Local(image.kind, str(PurePosixPath(directory) / image.path), image.tag))


def parse_reference(text: str) -> Reference:
    """`[REGISTRY/]NAME[:TAG][@DIGEST]`; ApiError `invalid` says which part is wrong."""
    if "://" in text:
        hint = f"write {text.partition('://')[2] or 'NAME:TAG'}"
        raise _wrong(text, "has a scheme", hint)
    if _HEX.match(text):
        raise _wrong(text, "is an image's digest without its name", "write NAME@sha256:DIGEST")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.match(digest):
        raise _wrong(text, f"has no sha256 digest after the @: {digest!r}", "write NAME@sha256: and 64 hex digits")
    registry, rest = _split_registry(rest)
    repository, colon, tag = rest.partition(":")
    if colon and not _TAG.match(tag):
        raise _wrong(text, f"has no tag after the colon: {tag!r}", "1 to 128 of A-Z, a-z, 0-9, _ . -")
    registry = _checked_registry(text, registry)
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"{_OFFICIAL}/{repository}"
    _check_repository(text, registry, repository)
    return Reference(registry, repository, tag or ("" if digest else _LATEST), digest)


def is_loopback(registry: str) -> bool:
    """Whether a registry (host or host:port) is on this machine by its name or address."""
    host = registry.rpartition(":")[0] if _has_port(registry) else registry
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _has_port(registry: str) -> bool:
    return ":" in registry.rpartition("]")[2]


def _split_registry(text: str) -> tuple[str, str]:
    """The first part is a registry if it could be nothing else: a dot, a colon, upper case, or localhost."""
    first, slash, rest = text.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first or first != first.lower()):
        return first, rest
    return DOCKER_HUB, text


def _checked_registry(text: str, registry: str) -> str:
    host, _, port = registry.rpartition(":") if _has_port(registry) else (registry, "", "")
    if _has_port(registry) and not (_PORT.match(port) and 0 < int(port) < 65536):
        raise _wrong(text, f"has no port after the registry: {port!r}", "a number from 1 to 65535")
    if host.startswith("["):
        try:
            good = host.endswith("]") and "%" not in host and ip_address(host[1:-1]).version == 6
        except ValueError:
            good = False
    else:
        good = bool(_HOST.match(host)) and len(host) <= _LONGEST_NAME
    if not good:
        raise _wrong(text, f"has no registry before the first slash: {registry!r}", "a host name, or HOST:PORT")
    # As written: a single word in upper case would be a directory of Docker Hub's in lower case.
    return DOCKER_HUB if registry.lower() in (DOCKER_HUB, *_HUB_NAMES) else registry


def _check_repository(text: str, registry: str, repository: str) -> None:
    if repository != repository.lower():
        written = repository.removeprefix("library/")
        raise _wrong(text, "has upper case in its name", f"write {text.replace(written, written.lower(), 1)}")
    for component in repository.split("/"):
        if not _COMPONENT.match(component):
            hint = "a-z and 0-9, inside also one . or _, __ or hyphens; or give a path: ./DIR"
            raise _wrong(text, f"has a part that is no name: {component!r}", hint)
    if len(registry) + 1 + len(repository) > _LONGEST_NAME:
        raise _wrong(text, f"is longer than {_LONGEST_NAME} characters")


def _wrong(text: str, why: str, hint: str = "") -> ApiError:
    return ApiError("invalid", f"the image {text!r} {why}", hint)
