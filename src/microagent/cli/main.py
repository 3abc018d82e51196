"""The command `microagent`: which verbs there are, and how everything that goes wrong looks and exits."""

import io
import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

import click

from microagent import __version__
from microagent.cli.output import Settings, json_option, note, say_error
from microagent.errors import ApiError, MicroagentError

# verb -> (module, attribute, what `--help` says). Modules are imported when their verb is used.
_VERBS = {
    "run": ("run", "run", "Run a command in a new workspace, and delete it afterwards."),
    "create": ("create", "create", "Make a workspace."),
    "start": ("lifecycle", "start", "Start a workspace."),
    "stop": ("lifecycle", "stop", "Ask a workspace to shut down; end it after 10 s."),
    "kill": ("lifecycle", "kill", "End a workspace at once."),
    "delete": ("lifecycle", "delete", "Delete a workspace and its record."),
    "exec": ("exec", "exec_", "Run a command in a workspace that runs."),
    "ps": ("show", "ps", "List the workspaces."),
    "status": ("show", "status", "Show one workspace."),
    "egress": ("egress", "egress", "Show what a workspace asked for, and what was decided."),
    "logs": ("egress", "logs", "Show what a workspace's command printed."),
    "policy": ("policy", "policy", "Check, explain, change and learn policies."),
    "image": ("image", "image", "List, pull and remove images."),
    "audit": ("audit", "audit", "Verify and export the record of a workspace."),
    "doctor": ("doctor", "doctor", "Check what this machine can do, by doing it."),
    "agent": ("programs", "agent", "Run the host agent in the foreground."),
    "demo": ("programs", "demo", "Watch a guest try to get out."),
}

EXIT = {"invalid": 2, "host": 3, "busy": 75}


class _ReaderLeft(Exception):  # noqa: N818  (nothing went wrong)
    """Nobody reads our output any more, as after `| head`."""


class _Verbs(click.Group):
    """Knows its verbs without importing them."""

    def invoke(self, ctx: click.Context) -> object:
        """As any group; click would make 1 of a BrokenPipeError."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderLeft from None

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _VERBS:
            return None
        module, attribute, _ = _VERBS[cmd_name]
        command: click.Command = getattr(import_module(f"microagent.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, _, text) in _VERBS.items()])


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    metavar="PATH",
    envvar="MICROAGENT_SOCKET",
    help="The agent's socket (default: /run/microagent/agent.sock).",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@json_option
@click.pass_obj
def app(settings: Settings, socket: str | None) -> None:
    """Run AI agents in workspaces whose only way out is a mediator that decides, and records."""
    settings.set_socket(socket)


def main() -> NoReturn:
    """Runs the command line and exits: 0 fine, 1 failed, 2 usage, 3 the host cannot, 75 try again, 128+N signal N."""
    settings = Settings()
    _open_streams()
    try:
        code = app.main(obj=settings, standalone_mode=False, prog_name="microagent")
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.format_message())
        code = EXIT["invalid"]
    except click.ClickException as error:
        # The parser stops at its first error, perhaps before it saw --json.
        settings.json |= "--json" in sys.argv[1:]
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path if context else 'microagent'} --help"
        code = _fail(settings, ApiError("invalid", error.format_message(), hint))
    except MicroagentError as error:
        code = _fail(settings, error)
    except (KeyboardInterrupt, click.Abort):
        code = 128 + signal.SIGINT
    except (_ReaderLeft, BrokenPipeError):
        sys.stdout = None  # say nothing more, not even at exit
        code = 128 + signal.SIGPIPE
    except OSError as error:
        # What could not be written will not be at exit either.
        sys.stdout = None
        place = f"{error.filename}: " if error.filename else ""
        code = _fail(settings, ApiError("failed", f"{place}{error.strerror or error}"))
    sys.exit(code)


def _open_streams() -> None:
    """Whatever we were started with: no stream is closed, and no letter is more than ours can say.

    Where one was closed, the next socket of ours would have its number, and what is printed.
    """
    while (lowest := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(lowest, True)
    os.close(lowest)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  (they stay open)
    if isinstance(sys.stdout, io.TextIOWrapper):
        if isinstance(sys.stdout.buffer, io.RawIOBase):
            # PYTHONUNBUFFERED: what a write leaves over, as where the reader leaves in the middle, would be dropped.
            sys.stdout = open(sys.stdout.fileno(), "w", encoding=sys.stdout.encoding, closefd=False)  # noqa: SIM115
        sys.stdout.reconfigure(errors="replace")


def _fail(settings: Settings, error: MicroagentError) -> int:
    from microagent.api.errors import code_of

    say_error(settings, error)
    return EXIT.get(code_of(error), 1)
