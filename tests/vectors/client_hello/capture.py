"""Captures the first flight of a TLS client: `capture.py NAME COMMAND...` writes NAME.hex beside this file.

COMMAND connects to https://api.example.org/, which leads here for as long as it runs: it is started in namespaces of
its own, where the name is in /etc/hosts and port 443 is a socket that reads and never answers. Needs root.
"""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HOST = "api.example.org"
_SILENCE = 1.0  # seconds without a byte that end a flight


def main() -> None:
    """Capture one client, or, as `capture.py --inside NAME COMMAND...`, be the server that does."""
    name, *command = sys.argv[1:]
    if name != "--inside":
        with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
            hosts.write(f"127.0.0.1 localhost {HOST}\n")
            hosts.flush()
            script = 'ip link set lo up && mount --bind "$0" /etc/hosts && exec "$@"'
            inside = ("sh", "-c", script, hosts.name, sys.executable, __file__, "--inside", name, *command)
            subprocess.run(["unshare", "--net", "--mount", *inside], check=True)
        return
    name, *command = command
    flight = bytearray()
    with socket.create_server(("127.0.0.1", 443)) as server:
        server.settimeout(60)
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as client:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(30)
                while True:
                    try:
                        data = connection.recv(65536)
                    except TimeoutError:
                        break
                    if not data:
                        break
                    flight += data
                    connection.settimeout(_SILENCE)
            client.kill()
    text = flight.hex()
    lines = [text[at : at + 120] for at in range(0, len(text), 120)]
    (Path(__file__).parent / f"{name}.hex").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
