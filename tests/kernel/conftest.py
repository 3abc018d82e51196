"""Workspaces for kernel tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.kernel.workspace import Workspace

from microagent.demo.internet import Internet

MakeWorkspace: TypeAlias = Callable[..., Workspace]


@pytest.fixture
def workspace(internet: Internet, tmp_path: Path) -> Iterator[MakeWorkspace]:
    """Makes workspaces in the test's internet: `workspace("strict", allow=["api.ok.test"])`."""
    with ExitStack() as stack:

        def make(mode: str = "strict", **more: Any) -> Workspace:
            return stack.enter_context(Workspace(internet, tmp_path, mode, **more))

        yield make
