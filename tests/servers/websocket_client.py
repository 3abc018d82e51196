"""A WebSocket client: `websocket_client.py URL CA MESSAGES`; prints how many messages came back as they were sent."""

import asyncio
import ssl
import sys

import aiohttp


async def main(url: str, ca: str, messages: str) -> None:
    """Each message is sent when the one before has come back."""
    trust = ssl.create_default_context(cafile=ca)
    async with aiohttp.ClientSession() as session, session.ws_connect(url, ssl=trust) as socket:
        came = 0
        for number in range(int(messages)):
            text = str(number) * (5000 if number % 10 == 0 else 1)
            await socket.send_str(text)
            came += await socket.receive_str(timeout=10) == text
        sys.stdout.write(str(came))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
