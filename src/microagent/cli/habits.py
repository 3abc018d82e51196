"""What people who know Docker try, and what there is instead."""

from typing import Final

import click

from microagent.errors import ApiError

_BACKGROUND: Final = "`microagent create` and `microagent start` run it in the background"
_FILES: Final = "nothing is shared with the host: files go in and out through the standard streams of `microagent exec`"
_PORTS: Final = "nothing can connect to a guest: `microagent exec` runs a client in it"
_NETWORK: Final = "what a guest may reach is said by --egress, --egress-allow, --egress-passthrough and --egress-policy"
_INSTEAD: Final = {
    **dict.fromkeys(("-d", "--detach"), _BACKGROUND),
    **dict.fromkeys(("-v", "--volume", "--mount"), _FILES),
    **dict.fromkeys(("-p", "--publish"), _PORTS),
    **dict.fromkeys(("--network", "--net"), _NETWORK),
}


class MakesWorkspace(click.Command):
    """`run` and `create`: an option that is none leads to the help, and to what there is instead."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As any command. Behind NAME flags may stand, so `create` would take a COMMAND's for its own."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            more = _INSTEAD.get(error.option_name, "")
            if not more and ctx.allow_interspersed_args:
                more = "write -- before a COMMAND that has options"
            hints = filter(None, (f"{ctx.command_path} --help", more))
            raise ApiError("invalid", error.format_message(), "\n".join(hints)) from error
