"""A server to be killed: run as ``python upstream_process.py PORT``; it prints its port."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

PORT = web.AppKey("port", list)


async def answer(request):
    """Answer after a moment, so that some requests are always under way."""
    await request.read()
    if not request.path.endswith("/ready"):
        await asyncio.sleep(0.005)
    return web.json_response({"port": request.app[PORT][0]})


async def main(port):
    """Serve until the process is killed."""
    application = web.Application()
    application[PORT] = []
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    application[PORT].append(runner.addresses[0][1])
    sys.stdout.write(f"{application[PORT][0]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
