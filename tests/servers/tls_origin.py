"""An HTTPS server of many names: `tls_origin.py PEM ADDRESS LOG DIRECTORY CA`.

DIRECTORY has NAME.pem for each name it serves. LOG gets a line `NAME VERSION RESUMED BYTES` for each handshake that was
done (RESUMED: 0 or 1; BYTES: how many came after it). Names that begin with `asks` ask for a client certificate of CA,
`needs` insist on one, `mute` never answer a ClientHello, `slow` no request; those with `tls12` speak no TLS 1.3, those
with `tls11` nothing newer.
"""

import socket
import socketserver
import ssl
import sys
import threading
from pathlib import Path

from microagent.errors import Malformed
from microagent.wire.client_hello import parse_client_hello_untrusted

ADDRESS, LOG, DIRECTORY, CA = sys.argv[2], *map(Path, sys.argv[3:6])
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n"
writing = threading.Lock()


def context(pem: Path) -> ssl.SSLContext:
    """What a name's server agrees to."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # A server that has no scruples: what is refused, the client refuses.
    made.set_ciphers("ALL:@SECLEVEL=0")
    made.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    if "tls12" in pem.name:
        made.maximum_version = ssl.TLSVersion.TLSv1_2
    if "tls11" in pem.name:
        made.maximum_version = ssl.TLSVersion.TLSv1_1
    made.load_cert_chain(pem)
    if pem.name.startswith(("asks", "needs")):
        made.verify_mode = ssl.CERT_OPTIONAL if pem.name.startswith("asks") else ssl.CERT_REQUIRED
        made.load_verify_locations(CA)
    return made


CONTEXTS = {pem.name.removesuffix(".pem"): context(pem) for pem in DIRECTORY.iterdir()}


def server_name(connection: socket.socket) -> str:
    """The name in the ClientHello, which stays in the kernel."""
    while True:
        hello = parse_client_hello_untrusted(connection.recv(65536, socket.MSG_PEEK))
        if hello is not None:
            return hello.sni or ""


class Handler(socketserver.BaseRequestHandler):
    """One connection: a request's head is read, a line answered."""

    def handle(self) -> None:
        try:
            name = server_name(self.request)
            if name.startswith("mute"):
                self.request.recv(65536)
                self.request.recv(65536)
                return
            tls = CONTEXTS[name].wrap_socket(self.request, server_side=True)
        except (OSError, Malformed, KeyError):
            return
        facts = f"{name} {tls.version()} {int(tls.session_reused or False)}"
        data = bytearray()
        with tls:
            try:
                while not data.endswith(b"\r\n\r\n") and (piece := tls.recv(65536)):
                    data += piece
                if name.startswith("slow"):
                    tls.recv(1)
                elif data:
                    tls.sendall(ANSWER)
                    tls.unwrap()
            except OSError:
                pass
            with writing, LOG.open("a") as log:
                log.write(f"{facts} {len(data)}\n")


class Server(socketserver.ThreadingTCPServer):
    """One thread a connection."""

    allow_reuse_address = True
    daemon_threads = True


with Server((ADDRESS, 443), Handler) as server:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()
