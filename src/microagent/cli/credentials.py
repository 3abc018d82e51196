"""The user's credential for a registry, from where `docker login` keeps it.

How this works. The command runs as the user and reads the user's own file (or asks the user's own helper), so that the
agent, which is root, never reads anybody's. It is given the one entry that the pull needs, over its socket.
"""

import base64
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microagent.api.reference import DOCKER_HUB
from microagent.errors import ApiError

# How Docker's configuration calls the registry that is meant where none is written.
_HUB_KEY = "https://index.docker.io/v1/"
_HELPER = re.compile(r"[A-Za-z0-9._-]+\Z")
_NOT_FOUND = "credentials not found"
# What a helper says in place of a user's name when the secret is a token (docker-credential-helpers).
_TOKEN = "<token>"  # noqa: S105  (a word, not a secret)
_HELPER_SECONDS = 60


def credential_for(registry: str, environ: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """The entry for a registry (`auth`, perhaps `identitytoken`), None where the user has none.

    ApiError when the file, or the helper that it names, is of no use.
    """
    directory = environ.get("DOCKER_CONFIG") or str(Path(environ.get("HOME") or Path.home()) / ".docker")
    file = Path(directory) / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise ApiError("invalid", f"cannot read {file}: {why}", "docker login writes it anew") from error
    key = _HUB_KEY if registry == DOCKER_HUB else registry
    auths, helpers = _object(config, "auths"), _object(config, "credHelpers")
    helper = helpers.get(key) or helpers.get(registry) or (config.get("credsStore") if config else None)
    if helper:
        return _asked(str(helper), key)
    return next((_entry(value) for name, value in auths.items() if _is(name, registry)), None)


def _object(config: object, key: str) -> dict[str, Any]:
    value = config.get(key) if isinstance(config, dict) else None
    return value if isinstance(value, dict) else {}


def _is(name: str, registry: str) -> bool:
    """Whether an entry is that registry's: older versions of Docker wrote a scheme and a path around it."""
    host = re.sub(r"\Ahttps?://", "", name).partition("/")[0]
    return host in ("index.docker.io", DOCKER_HUB) if registry == DOCKER_HUB else host == registry


def _entry(value: object) -> dict[str, str] | None:
    if not isinstance(value, dict):
        return None
    auth, token = value.get("auth"), value.get("identitytoken")
    if isinstance(token, str) and token:
        return {"auth": auth if isinstance(auth, str) and auth else _encoded(_TOKEN, ""), "identitytoken": token}
    return {"auth": auth} if isinstance(auth, str) and auth else None


def _asked(helper: str, key: str) -> dict[str, str] | None:
    """What `docker-credential-HELPER get` says."""
    program = f"docker-credential-{helper}"
    if not _HELPER.match(helper):
        raise ApiError("invalid", f"{program!r} is not the name of a credential helper", "see ~/.docker/config.json")
    try:
        answer = subprocess.run(
            [program, "get"], input=key.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
        if answer.returncode != 0 and _NOT_FOUND in answer.stdout.decode(errors="replace"):
            return None
        found = json.loads(answer.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        # What it printed may be the secret itself.
        raise ApiError(
            "failed", f"{program} gives no credential for {key}", "docker login, or see its own log"
        ) from error
    return {"auth": _encoded(user, ""), "identitytoken": secret} if user == _TOKEN else {"auth": _encoded(user, secret)}


def _encoded(user: str, secret: str) -> str:
    return base64.b64encode(f"{user}:{secret}".encode()).decode()
