"""Real receivers of records: rsyslogd, systemd-journald, and an OTLP server with OpenTelemetry's own protobuf."""

import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from google.protobuf.json_format import Parse, ParseError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

if TYPE_CHECKING:
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord


class Rsyslog:
    """rsyslogd on a socket of its own; what it wrote is in `file`, message texts alone."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "log.sock"
        self.file = directory / "received"
        self._pid_file = directory / "rsyslogd.pid"
        self._config = directory / "rsyslog.conf"
        self._config.write_text(
            f"""
            global(workDirectory="{directory}" maxMessageSize="64k")
            module(load="imuxsock" SysSock.Use="off")
            input(type="imuxsock" Socket="{self.socket}" RateLimit.Interval="0")
            template(name="text" type="string" string="%pri% %programname% %msg:2:$%\\n")
            action(type="omfile" file="{self.file}" template="text")
            """
        )

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        """The daemon, ended on leaving."""
        argv = ["rsyslogd", "-n", "-f", str(self._config), "-i", str(self._pid_file)]
        with subprocess.Popen(argv) as daemon:
            try:
                yield daemon
            finally:
                daemon.send_signal(signal.SIGCONT)
                daemon.terminate()

    def lines(self) -> list[tuple[int, str, str]]:
        """Priority, program and text of each message."""
        if not self.file.exists():
            return []
        found = []
        for line in self.file.read_text("utf-8").splitlines():
            priority, program, text = line.split(" ", 2)
            found.append((int(priority), program, text))
        return found


class Journald:
    """systemd-journald with a run directory and a journal of its own, in a mount namespace."""

    _SCRIPT = """
        mkdir -p /run/systemd /run/log
        mount --bind "$0" /run/systemd && mkdir -p /run/systemd/journal
        mount -t tmpfs tmpfs /run/log && mkdir /run/log/journal
        /lib/systemd/systemd-journald &
        read -r count
        for _ in $(seq 100); do
            journalctl -D /run/log/journal -t microagent -o cat >/run/systemd/found
            [ "$(wc -l </run/systemd/found)" -ge "$count" ] && break
            sleep 0.1
        done
        kill $! && cat /run/systemd/found
    """

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "journal" / "dev-log"
        argv = ["unshare", "--mount", "sh", "-c", self._SCRIPT, str(directory)]
        pipe = subprocess.PIPE
        self._daemon = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def end(self, count: int) -> list[str]:
        """The messages of microagent that are in the journal, when there are so many or after a while."""
        return self._daemon.communicate(f"{count}\n", timeout=60)[0].splitlines()


class Collector:
    """An OTLP/HTTP server: what its requests held, as protobuf has it; `status` is what it answers."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.workspaces: set[str] = set()
        self.refused: list[str] = []
        self.status = 200

    @asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[None]:
        """Served on 127.0.0.1."""
        app = web.Application(client_max_size=64 << 20)
        app.add_routes([web.post("/v1/logs", self._answer)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        if self.status != 200:
            return web.Response(status=self.status)
        try:
            message = Parse(await request.text(), ExportLogsServiceRequest())
        except ParseError as error:
            self.refused.append(str(error))
            return web.Response(status=400, text=str(error))
        for resource in message.resource_logs:
            named = {item.key: item.value.string_value for item in resource.resource.attributes}
            self.workspaces.add(named["microagent.workspace"])
            for scope in resource.scope_logs:
                self.records += scope.log_records
        return web.json_response({})
