"""A MySQL server that answers every query with 42: `mysql_origin.py PEM ADDRESS`."""

import asyncio
import ssl
import sys
from typing import Any

from mysql_mimic import MysqlServer, Session


class Answers(Session):  # type: ignore[misc]  # (the package has no types)
    """One client's session."""

    async def query(self, *_: Any) -> Any:
        """Rows, then columns."""
        return [(42,)], ["answer"]


async def main(pem: str, address: str) -> None:
    """Until the process is ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = MysqlServer(session_factory=Answers, ssl=context)
    await server.start_server(host=address, port=3306)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
