"""A client that speaks HTTP/2 and nothing else: `h2_client.py CA ADDRESS NAME`; prints status and body."""

import socket
import ssl
import sys

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived


def main(ca: str, address: str, name: str) -> None:
    """One GET."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    client = H2Connection()
    client.initiate_connection()
    fields = [(":method", "GET"), (":scheme", "https"), (":authority", name), (":path", "/")]
    client.send_headers(1, fields, end_stream=True)
    said = ""
    with (
        socket.create_connection((address, 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"
        tls.sendall(client.data_to_send())
        while data := tls.recv(65536):
            for event in client.receive_data(data):
                if isinstance(event, ResponseReceived):
                    said += dict(event.headers)[b":status"].decode() + " "
                elif isinstance(event, DataReceived):
                    said += event.data.decode()
                elif isinstance(event, ConnectionTerminated):
                    sys.stdout.write(said)
                    return


if __name__ == "__main__":
    main(*sys.argv[1:])
