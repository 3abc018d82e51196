"""Images from registries, archives and layouts, by skopeo, into a layout of our own.

How this works. From a registry, skopeo runs as a user of its own that owns nothing; from a file, as the caller, so that
it can read what the caller can. Either way it is confined to its bench. A registry's credential is a file of mode 0600
in there; there is always such a file, since skopeo would look for root's own otherwise. A tag is resolved once: what is
fetched afterwards is the manifest with that digest, which skopeo checks, as it does each layer's.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microagent.api.reference import Local, Reference
from microagent.errors import ApiError, HostError, Malformed, MicroagentError
from microagent.guests import oci
from microagent.guests.caller import Caller
from microagent.guests.oci import Descriptor
from microagent.guests.tools import ToolFailed
from microagent.guests.workshop import PLACE, READING, Step, Workshop

# Nobody's: below those that workspaces get (workspace.store.FIRST_UID), above what anybody else hands out. Two pulls at
# once have one each: what a registry made of the one's skopeo does not see the other's credential.
PULLERS = range(1_879_090_000, 1_879_100_000)
_CREDENTIAL = "credential.json"
_LAYOUT = "layout"
_SHADOW = "source"
TAG = "image"
# An index may point at an index (one per platform); nothing sensible nests deeper.
MAX_NESTING = 4
_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_PREFIX = re.compile(r'\AError parsing image name "[^"]*": ')
# Go's words, and those of the distribution API's errors.
_TEMPORARY = (
    "connection refused",
    "connection reset",
    "timeout",
    "timed out",
    "no route to host",
    "network is unreachable",
    "temporary failure",
    "server misbehaving",
    "toomanyrequests",
    "too many requests",
    "internal server error",
    "bad gateway",
    "service unavailable",
    "unexpected eof",
    "received unexpected http status: 5",
    "statuscode: 5",
    "statuscode: 429",
)
_DENIED = ("unauthorized", "authentication required", "requested access to the resource is denied", "forbidden")


@dataclass(frozen=True, slots=True)
class Access:
    """How to speak to a registry: its entry of a Docker configuration's `auths`, and whether it may do without TLS."""

    credential: Mapping[str, str] | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest in a registry: its digest, and how many bytes its layers have as they are sent."""

    digest: str
    size: int


class Pull:
    """One pull of one reference, as a user that is nobody else's at this time."""

    def __init__(self, shop: Workshop, uid: int, reference: Reference, access: Access) -> None:
        self.user = Caller(uid, uid)
        self._shop = shop
        self._bench = shop.bench("fetch", self.user)
        self._reference = reference
        self._insecure = access.insecure
        auths: dict[str, Any] = {reference.registry: dict(access.credential)} if access.credential else {}
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._bench / _CREDENTIAL, flags, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchown(fd, uid, uid)
            json.dump({"auths": auths}, file)

    async def look_up(self) -> Found:
        """What the reference is now, for this machine. ApiError when there is no such image or the registry says no."""
        wanted = self._reference
        for _ in range(MAX_NESTING):
            step = Step("resolving", network=True)
            raw = await self._skopeo(step, "inspect", "--raw", *self._options(""), f"docker://{wanted}")
            digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
            if wanted.digest not in ("", digest):
                raise ApiError("failed", f"{self._reference}: the registry answered with another image: {digest}")
            try:
                document = oci.parse_document(raw)
                if "manifests" not in document:
                    return Found(digest, oci.layers_size(document))
                wanted = self._pinned(oci.choose(document, "").digest)
            except Malformed as error:
                raise ApiError("failed", f"{self._reference} cannot be used: {error.what}") from error
        raise ApiError("failed", f"{self._reference} cannot be used: indexes within indexes")

    async def fetch(self, found: Found) -> Path:
        """The layout with the image that `look_up` has found."""
        step = Step("pulling", found.size, network=True, exact=True)
        source, target = f"docker://{self._pinned(found.digest)}", f"oci:{PLACE}/{_LAYOUT}:{TAG}"
        await self._skopeo(step, "copy", "--quiet", *self._options("src-"), source, target)
        (self._bench / _CREDENTIAL).unlink(missing_ok=True)
        return self._bench / _LAYOUT

    def _pinned(self, digest: str) -> Reference:
        return Reference(self._reference.registry, self._reference.repository, digest=digest)

    def _options(self, prefix: str) -> list[str]:
        insecure = [f"--{prefix}tls-verify=false"] if self._insecure else []
        return ["--authfile", f"{PLACE}/{_CREDENTIAL}", *insecure]

    async def _skopeo(self, step: Step, *arguments: str) -> bytes:
        try:
            return await self._shop.run(self._bench, step, "skopeo", *arguments, caller=self.user)
        except ToolFailed as error:
            raise explain(self._reference, error) from error


async def import_layout(shop: Workshop, bench: Path, layout: Path, manifest: Descriptor, caller: Caller) -> Path:
    """A layout of our own with an image of the caller's layout."""
    write_shadow(bench / _SHADOW, layout, manifest)
    # Compressing what the layout has uncompressed would make it another image.
    kept = ("--dest-oci-accept-uncompressed-layers",)
    return await _import(shop, bench, f"oci:{PLACE}/{_SHADOW}:{TAG}", str(layout), caller, *kept)


async def import_archive(shop: Workshop, bench: Path, local: Local, caller: Caller) -> Path:
    """A layout of our own with an image of a docker archive of the caller's."""
    return await _import(shop, bench, str(local), str(local), caller)


def write_shadow(shadow: Path, layout: Path, manifest: Descriptor) -> None:
    """A layout that holds one image of another, tagged, and borrows its blobs.

    So what is read is what was chosen, whoever may write to the other's index.
    """
    shadow.mkdir(mode=0o755)
    # Not where that leads: only who reads it may find out.
    (shadow / "blobs").symlink_to(layout / "blobs")
    (shadow / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry = {**manifest.raw, "annotations": {"org.opencontainers.image.ref.name": TAG}}
    (shadow / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    for path in (shadow / "oci-layout", shadow / "index.json"):
        path.chmod(0o644)


async def _import(shop: Workshop, bench: Path, source: str, name: str, caller: Caller, *options: str) -> Path:
    command = ("skopeo", "copy", "--quiet", *options, source, f"oci:{PLACE}/{_LAYOUT}:{TAG}")
    try:
        await shop.run(bench, Step("reading"), *command, caller=caller, capabilities=READING)
    except ToolFailed as error:
        raise ApiError("failed", f"the image {name} cannot be read: {message_of(error.said)}", error.hint) from error
    return bench / _LAYOUT


def message_of(said: str) -> str:
    """What skopeo means: the last message of its log, without the log's form."""
    messages = _MESSAGE.findall(said)
    message = messages[-1].replace('\\"', '"').replace("\\\\", "\\") if messages else said
    return _PREFIX.sub("", message)


def explain(reference: Reference, error: ToolFailed) -> MicroagentError:
    """Whose fault a failed pull is, and what to do about it. Temporary troubles are `busy`: try again later."""
    message = message_of(error.said)
    low = message.lower()
    what = f"{reference} cannot be pulled: {message}"
    if error.hint:
        return HostError(what, error.hint)
    if "manifest unknown" in low or "name unknown" in low or "status 404" in low or "not found" in low:
        missing = f"digest {reference.digest}" if reference.digest else f"tag {reference.tag}"
        hint = "check the spelling; a private image may need: docker login"
        return ApiError("not_found", f"{reference.registry} has no {reference.repository} with the {missing}", hint)
    if any(word in low for word in _DENIED):
        hint = f"docker login {reference.registry}, as the user who runs microagent; or the image does not exist"
        return ApiError("failed", f"{reference.registry} does not let you have {reference.repository}: {message}", hint)
    if "gave http response to https client" in low:
        hint = "for a registry on this machine: --insecure-registry"
        return ApiError("failed", f"{reference.registry} does not speak TLS", hint)
    if "x509:" in low or "certificate" in low:
        hint = f"put its CA into /etc/containers/certs.d/{reference.registry}/ca.crt"
        return ApiError("failed", f"{reference.registry} is not to be trusted: {message}", hint)
    if "no such host" in low:
        hint = "check the spelling of the registry; an image of this machine is a path: ./DIR"
        return ApiError("failed", f"there is no registry {reference.registry}: {message}", hint)
    if any(word in low for word in _TEMPORARY):
        hint = "try again later; is this machine's network up, and the registry?"
        return ApiError("busy", f"the registry {reference.registry} does not answer: {message}", hint)
    return ApiError("failed", what)
