"""Errors on the wire: `{"error": {"code", "message", "hint"}}` with an HTTP status.

The code is the stable part; the status is for people with curl.
"""

from typing import Any

from microagent.errors import ApiError, HostError, MicroagentError, PolicyError

STATUS = {
    "invalid": 400,
    "forbidden": 403,
    "not_found": 404,
    "no_image": 404,
    "conflict": 409,
    "failed": 500,
    "host": 500,
    "internal": 500,
    "busy": 503,
}


def code_of(error: MicroagentError) -> str:
    """The stable word for any of our errors."""
    match error:
        case ApiError():
            return error.code
        case PolicyError():
            return "invalid"
        case HostError():
            return "host"
        case _:
            return "internal"


def to_json(error: MicroagentError) -> dict[str, Any]:
    """The body of an error answer, also what `--json` prints."""
    return {"error": {"code": code_of(error), "message": error.what, "hint": error.hint}}


def from_json(body: object) -> ApiError:
    """The error in a body that the agent sent; a body of another shape is an internal error itself."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ApiError("internal", "the agent answered something that is not microagent's API")
    return ApiError(str(error.get("code")), str(error.get("message")), str(error.get("hint") or ""))
