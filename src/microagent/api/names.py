"""The one rule for a workspace's name, shared by the CLI (early errors) and the agent (safety).

A name becomes a directory, a network namespace and a host name, so the rule is the tightest of the three.
"""

import re

from microagent.errors import ApiError

# Whose members may use the agent, besides root.
GROUP = "microagent"

NAME_PATTERN = "[a-z0-9][a-z0-9-]{0,62}"
_NAME = re.compile(rf"{NAME_PATTERN}\Z")


def is_name(text: str) -> bool:
    """Whether a workspace may be called that."""
    return _NAME.match(text) is not None


def checked_name(text: str) -> str:
    """The name itself, or ApiError `invalid`."""
    if not is_name(text):
        raise ApiError(
            "invalid",
            f"{text!r} is not a workspace name",
            "use 1 to 63 of a-z, 0-9 and hyphen, beginning with a letter or digit",
        )
    return text
