"""A server of plain TCP that a test scripts: one answer a connection."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from microagent.demo.namespaces import Namespace


@contextmanager
def answering(where: Namespace, address: tuple[str, int], answer: Callable[[bytes], bytes]) -> Iterator[list[bytes]]:
    """Listens at an address and port of `where`, and answers the first bytes of each connection; what it has heard."""
    heard: list[bytes] = []
    listener = where.run(lambda: socket.create_server(address))

    def serve() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            with stream:
                heard.append(request := stream.recv(65536))
                stream.sendall(answer(request))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
