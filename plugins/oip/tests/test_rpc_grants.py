"""Messages over gRPC that come later than the call, of those who may not ask any more by then."""

from __future__ import annotations

import grpc
import pytest
from rpc_calls import THREADS, infer
from tritonclient.grpc import service_pb2

from api_answers import until
from conftest import POINTS
from mataserver import RpcPort, testing
from mataserver_oip.rpc.server import SERVICE
from service_plugins import plugin
from triton_clients import grpc_port

__all__ = ["plugin"]

OWNERS = """
from mataserver import Principal

class Service(Base):
    asked = 0

    async def authenticate(self, credentials):
        if credentials.secret in {"first", "second"}:
            self.asked += 1
            who = f"lab:{credentials.secret}"
            return Principal(who, "somebody", "lab", frozenset({"infer"}), grant=f"of {who}")
        return None
"""


@pytest.fixture
async def server(data_dir, plugin):
    """A server that speaks gRPC, with a service that knows two callers."""
    points = [*POINTS, plugin(OWNERS)]
    async with testing.serving(data_dir, **THREADS | {"entry_points": points}) as served:
        yield served


@pytest.mark.parametrize("revoked", ["lab:first", "of lab:first"])
async def test_a_message_after_the_key_was_revoked(server, revoked):
    """A call that a valid key has opened infers nothing once the key counts no more; others do."""
    service = server.service("lab")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port(server)}") as channel:
        method = channel.stream_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        calls = [method(metadata=(("authorization", f"Bearer {key}"),)) for key in KEYS]
        await until(lambda: service.asked == len(KEYS))
        service.ctx.sign_out(revoked)
        for call in calls:
            await call.write(infer())
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await calls[0]
        assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "counts no more" in told.value.details()
        assert (await calls[1]).model_name == "fake-detect"
    await until(lambda: server.composed.budget.taken == 0)
    assert service.asked == len(KEYS)


class Call:
    """A call whose message has arrived."""

    async def read(self):
        return b"asked"


async def test_a_plugin_that_gives_a_function(server):
    """It is read as before ``caller`` became a context manager, with a warning."""
    ctx = server.service("lab").ctx
    port, share = RpcPort(ctx.server, ctx.stopping, 0), ctx.http.budget()

    async def caller():
        return "lab:first"

    with pytest.warns(DeprecationWarning, match="context manager"):
        assert await port.read(Call(), share, caller) == b"asked"
    share.give_back()


KEYS = ("first", "second")
