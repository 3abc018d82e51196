"""A gRPC server whose one method sends back each message as it comes: `grpc_origin.py PEM ADDRESS`."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc


def echo(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """Trailers carry how many there were."""
    count = 0
    for message in messages:
        count += 1
        yield message
    context.set_trailing_metadata((("x-count", str(count)),))


def main(pem: str, address: str) -> None:
    """Serve until the process is ended."""
    text = Path(pem).read_bytes()
    key, _, certificate = text.partition(b"-----BEGIN CERTIFICATE-----")
    credentials = grpc.ssl_server_credentials([(key, b"-----BEGIN CERTIFICATE-----" + certificate)])
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    server.add_secure_port(f"{address}:443", credentials)
    server.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
