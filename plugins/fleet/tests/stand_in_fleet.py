"""A server with a model and stand-ins for its Tritons."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from onnx_files import adding
from stand_in_triton import stand_ins
from test_models import push

FAST = {"probe": 0.1, "timeout": 0.5, "load_timeout": 3.0}


async def until(true, seconds=20.0):
    """Wait until something is so; return it."""
    async with asyncio.timeout(seconds):
        while not (found := await true()):
            await asyncio.sleep(0.02)
        return found


class Fleet:
    """A server, and the stand-ins that it knows as ``t0``, ``t1`` …."""

    def __init__(self, client, tritons):
        self.client, self.tritons = client, tritons

    async def register(self, number):
        """Register a stand-in and wait until it is seen."""
        port = self.tritons[number].port
        body = {"name": f"t{number}", "host": "127.0.0.1", "port": port, "metrics_port": port}
        await self.client.made("/api/tritons", body)
        await self.state(number, "ready")

    async def state(self, number, wanted):
        """Wait until a Triton is in a state; return it."""

        async def found():
            _, told = await self.client.ask("GET", f"/api/tritons/t{number}")
            return told if told["state"] == wanted else None

        return await until(found)

    async def model(self, wanted=None):
        """Return the model, once it is in a state."""

        async def found():
            _, told = await self.client.ask("GET", "/api/models/m")
            return told if wanted in {None, told["state"]} else None

        return await until(found)

    async def load(self, **body):
        """Load the model; return status and answer."""
        return await self.client.ask("POST", "/api/models/m/load", json=body)


@pytest.fixture
def fleets(serve):
    """Return what runs a fleet of so many registered stand-ins and a model ``m``."""

    @contextlib.asynccontextmanager
    async def run(count, *, registered=None, **settings):
        async with stand_ins(count) as tritons, serve(fleet={**FAST, **settings}) as client:
            fleet = Fleet(client, tritons)
            for number in range(count if registered is None else registered):
                await fleet.register(number)
            await push(client, "m", {"model.onnx": adding(1)})
            yield fleet

    return run
