"""Calls over gRPC without the client library of Triton."""

from __future__ import annotations

import grpc
import pytest
from tritonclient.grpc import service_pb2

from conftest import POINTS, picture
from mataserver_oip.rpc.server import SERVICE
from triton_clients import GRPC

PNG = picture()


KEY = (("authorization", "Bearer test-key"),)


THREADS = {"entry_points": POINTS, "engine": "thread", **GRPC}


async def call(channel, name, request, metadata=KEY, timeout=10.0):
    """Call a method with Triton's own messages, or with bytes; return the answer."""
    answer = getattr(service_pb2, f"{name}Response")
    method = channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda each: (
            each if isinstance(each, bytes) else each.SerializeToString()
        ),
        response_deserializer=answer.FromString,
    )
    return await method(request, metadata=metadata, timeout=timeout)


async def refused(channel, name, request, **options):
    """Call a method that must be refused; return code and sentence."""
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await call(channel, name, request, **options)
    return told.value.code().name, told.value.details()


def infer(model="fake-detect", **fields):
    """Return a request with an encoded image in its contents."""
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    image = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    image.contents.bytes_contents.append(PNG)
    return request
