"""Serves browser.html: a page that streams its camera to a model.

python examples/browser.py MODEL [PORT]

A page cannot call the API of another origin, so this small server creates the session and hands
the page the address to stream to. That address contains the key, so it listens on localhost only.
The server is at MATA_SERVER_URL (default http://127.0.0.1:8110), the key is MATA_SERVER_API_KEY.
"""

import os
import sys
from pathlib import Path

from aiohttp import web

from mataserver_client import AsyncClient, Client, MataError

PAGE = Path(__file__).with_name("browser.html")
URL = os.environ.get("MATA_SERVER_URL", "http://127.0.0.1:8110")
KEY = os.environ.get("MATA_SERVER_API_KEY", "")


async def page(_request: web.Request) -> web.FileResponse:
    """Send the page."""
    return web.FileResponse(PAGE)


async def session(_request: web.Request) -> web.Response:
    """Create a session; its address carries the key, as a browser's WebSocket sends no header."""
    try:
        async with AsyncClient(URL, KEY) as client:
            created = await client.create_session(sys.argv[1])
    except MataError as error:
        return web.json_response({"detail": error.detail}, status=502)
    return web.json_response({"ws_url": f"{created.ws_url}?token={KEY}"})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/browser.py MODEL [PORT]")
    port = (*sys.argv, "8000")[2]
    if not (port.isdecimal() and int(port) < 65536):
        sys.exit(f"{port}: a port is a number up to 65535")
    try:
        with Client(URL, KEY) as client:
            client.warmup(sys.argv[1])  # reports a wrong key or model here
    except MataError as error:
        sys.exit(f"{error.status}: {error}")
    app = web.Application()
    app.add_routes([web.get("/", page), web.post("/session", session)])
    try:
        web.run_app(app, host="127.0.0.1", port=int(port))
    except OSError as error:  # the port is in use
        sys.exit(str(error))
