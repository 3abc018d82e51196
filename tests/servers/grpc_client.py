"""A bidirectional gRPC stream, message for message: `grpc_client.py CA NAME ROUNDS`; prints what came of it.

Each message is sent only when the one before has come back, so nothing on the way may hold any.
"""

import queue
import sys
from pathlib import Path

import grpc


def main(ca: str, name: str, rounds: str) -> None:
    """Prints "MESSAGES COUNT", the second out of the trailers; or the status that ended it."""
    outgoing: queue.Queue[bytes | None] = queue.Queue()
    credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())
    with grpc.secure_channel(f"{name}:443", credentials) as channel:
        call = channel.stream_stream("/test.Echo/Echo")(iter(outgoing.get, None), timeout=20)
        received = 0
        try:
            for number in range(int(rounds)):
                message = b"%d" % number * (1000 if number % 10 == 0 else 1)
                outgoing.put(message)
                assert next(call) == message
                received += 1
            outgoing.put(None)
            assert list(call) == []
            trailers = {item.key: item.value for item in call.trailing_metadata()}
            sys.stdout.write(f"{received} {trailers['x-count']}")
        except grpc.RpcError as error:
            outgoing.put(None)
            sys.stdout.write(error.code().name)


if __name__ == "__main__":
    main(*sys.argv[1:])
