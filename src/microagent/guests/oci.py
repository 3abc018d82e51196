"""What an OCI image says about itself (image-spec 1.0: image-layout, image-index, manifest, config). Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from microagent.errors import Malformed

# 4 MiB is what registries allow for a manifest; the same for what a layout holds.
MAX_DOCUMENT = 4 << 20

_INDEX_TYPES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How an image wants to be run; the defaults are those of an image that says nothing."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = ""

    def argv(self, command: list[str]) -> list[str]:
        """What runs when the user asks for `command` (as Docker: it replaces Cmd, and Entrypoint precedes it)."""
        return [*self.entrypoint, *(command or self.cmd)]


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to a blob: its digest ("sha256:" and 64 hex digits), size in bytes, and the JSON it came as."""

    digest: str
    size: int
    is_index: bool
    raw: Mapping[str, Any]


def parse_document(data: bytes) -> dict[str, Any]:
    """A JSON object; Malformed for anything else."""
    if len(data) > MAX_DOCUMENT:
        raise Malformed(f"a document of {len(data)} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    return _mapping(document, "document")


def choose(index: Mapping[str, Any], tag: str) -> Descriptor:
    """The manifest of an index that `tag` names, or, without a tag, the only one, or the one for this machine."""
    entries = [_mapping(entry, "manifest") for entry in _sequence(index.get("manifests"), "manifests")]
    if tag:
        entries = [e for e in entries if (_optional(e.get("annotations"), "annotations")).get(_REF_NAME) == tag]
        if not entries:
            raise Malformed(f"the layout has no image tagged {tag!r}")
    if len(entries) > 1 and all("platform" in entry for entry in entries):
        entries = [e for e in entries if _is_amd64_linux(_optional(e["platform"], "platform"))]
    if not entries:
        raise Malformed("the layout holds no image for linux/amd64")
    if len(entries) > 1:
        raise Malformed("the layout holds several images: name one as PATH:TAG")
    return descriptor(entries[0])


def descriptor(entry: object) -> Descriptor:
    """A descriptor (image-spec, descriptor.md) whose digest is safe to use as a file name."""
    mapping = _mapping(entry, "descriptor")
    digest, size = mapping.get("digest"), mapping.get("size")
    if not isinstance(digest, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Malformed("a descriptor without digest or size")
    algorithm, _, hexadecimal = digest.partition(":")
    if algorithm != "sha256" or len(hexadecimal) != 64 or not set(hexadecimal) <= set("0123456789abcdef"):
        raise Malformed(f"not a sha256 digest: {digest!r}")
    return Descriptor(digest, size, mapping.get("mediaType") in _INDEX_TYPES, mapping)


def layers_size(manifest: Mapping[str, Any]) -> int:
    """How many bytes a manifest's configuration and layers have, as it says; Malformed when it says it wrongly."""
    return sum(part.size for part in parts(manifest))


def parts(manifest: Mapping[str, Any]) -> list[Descriptor]:
    """A manifest's configuration and layers; Malformed when it says them wrongly."""
    return [descriptor(part) for part in (manifest.get("config"), *_sequence(manifest.get("layers"), "layers"))]


def parse_config(data: bytes) -> ImageConfig:
    """The image configuration's part that says how to run it (image-spec, config.md)."""
    document = parse_document(data)
    machine = (document.get("os", "linux"), document.get("architecture", "amd64"))
    if machine != ("linux", "amd64"):
        raise Malformed(f"it is for {machine[0]}/{machine[1]}, and guests are linux/amd64")
    config = _optional(document.get("config"), "config")
    user, workdir = _string(config.get("User"), "User"), _string(config.get("WorkingDir"), "WorkingDir") or "/"
    env = {}
    for item in _strings(config.get("Env"), "Env"):
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise Malformed(f"Env holds {item!r}, which is not NAME=value")
        env[name] = value
    entrypoint, cmd = _strings(config.get("Entrypoint"), "Entrypoint"), _strings(config.get("Cmd"), "Cmd")
    return ImageConfig(entrypoint, cmd, env, workdir, user)


def _is_amd64_linux(platform: Mapping[str, Any]) -> bool:
    return platform.get("architecture") == "amd64" and platform.get("os") == "linux"


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not an object")
    return cast(dict[str, Any], value)


def _optional(value: object, what: str) -> dict[str, Any]:
    return {} if value is None else _mapping(value, what)


def _string(value: object, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise Malformed(f"{what} is not a string")
    return value


def _sequence(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise Malformed(f"{what} is not a list")
    return value


def _strings(value: object, what: str) -> tuple[str, ...]:
    items = _sequence([] if value is None else value, what)
    if not all(isinstance(item, str) and "\0" not in item for item in items):
        raise Malformed(f"{what} holds something that is not a string")
    return tuple(cast(list[str], items))
