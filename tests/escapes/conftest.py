"""Escapes are tried in the kernel tests' workspaces: a real network and a real mediator, without a virtual machine."""

from tests.kernel.conftest import workspace

__all__ = ["workspace"]
