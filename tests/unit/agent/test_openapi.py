"""The description is that of the API there is: its routes, its settings, and what a real agent answers."""

import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from jsonschema import Draft202012Validator
from tests.unit.agent.test_agent import Agent

from microagent.agent.fleet import Fleet
from microagent.agent.server import application
from microagent.api import messages, openapi
from microagent.api.errors import to_json
from microagent.api.messages import WORKSPACES, workspace_path
from microagent.errors import ApiError
from microagent.workspace.spec import WorkspaceSpec

FILE = Path(__file__).parents[3] / "docs" / "openapi.json"
ENTRY = {"verb": "allow", "entry": "api.example.org"}


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as home:
        running = Agent(Path(home))
        yield running
        running.stop()


def test_every_route_is_described_and_nothing_else() -> None:
    # Only asked for its routes.
    routes = application(Mock(spec=Fleet), None).router.routes()
    found = {(route.method, route.resource.canonical) for route in routes if route.resource}
    assert {route for route in found if route[0] != "HEAD"} == set(openapi.OPERATIONS)


def test_the_file_in_docs_is_what_the_agent_serves() -> None:
    assert FILE.read_text() == openapi.text(), "make docs/openapi.json anew: make pages"


def test_the_settings_are_those_of_a_workspace() -> None:
    assert set(messages.Spec.__annotations__) == {field.name for field in fields(WorkspaceSpec)}


def test_the_schemas_are_schemas() -> None:
    schemas = openapi.document()["components"]["schemas"]
    assert {"Status", "Spec", "Failure"} <= schemas.keys()
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


def conforms(value: Any, method: str, path: str) -> None:
    """The answer is as the description of its operation says."""
    document = openapi.document()
    status = str(openapi.OPERATIONS[method, path].status)
    schema = document["paths"][path][method.lower()]["responses"][status]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


@pytest.mark.kernel
def test_a_real_agents_answers_are_as_described(agent: Agent) -> None:
    one, policy = workspace_path("{name}"), {"op": "allow", "entry": "www.example.org", "seconds": 60}
    spec = {"name": "a", "image": "tiny", "egress": {"mode": "strict", "entries": [{**ENTRY, "origin": "x"}]}}
    document = openapi.document()
    Draft202012Validator({"$ref": "#/components/schemas/Spec", **document}).validate(spec)
    Draft202012Validator({"$ref": "#/components/schemas/PolicyChange", **document}).validate(policy)
    assert agent.ask("GET", messages.DESCRIPTION) == document
    conforms(agent.ask("GET", messages.AGENT), "GET", messages.AGENT)
    conforms(agent.ask("POST", WORKSPACES, spec), "POST", WORKSPACES)
    conforms(agent.ask("GET", WORKSPACES), "GET", WORKSPACES)
    conforms(agent.ask("GET", workspace_path("a")), "GET", one)
    conforms(agent.ask("POST", workspace_path("a", "policy"), policy), "POST", f"{one}/policy")
    conforms(agent.ask("GET", workspace_path("a", "policy")), "GET", f"{one}/policy")
    conforms(agent.ask("GET", workspace_path("a", "audit")), "GET", f"{one}/audit")
    conforms(agent.ask("DELETE", workspace_path("a")), "DELETE", one)
    with pytest.raises(ApiError) as caught:
        agent.ask("GET", workspace_path("a"))
    Draft202012Validator({"$ref": "#/components/schemas/Failure", **document}).validate(to_json(caught.value))
