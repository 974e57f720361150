"""The protocol's messages over gRPC to requests, and answers to messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import BadRequest
from mataserver_oip import tensor
from mataserver_oip.request import InferRequest
from mataserver_oip.rpc.messages import TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver_oip.server import Answer, IndexedModel, Metadata
    from mataserver_oip.signature import Field
    from mataserver_oip.tensor import Tensor

_CONTENTS = {
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
    "FP32": "fp32_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
}
"""Where the elements of a datatype are, unless they come as raw bytes."""
_UNSUPPORTED = {"shared_memory_region": "shared memory", "classification": "classification"}
"""Parameters of an output that is asked for."""


def request(message: Any, most: int) -> InferRequest:
    """Read an inference; ``most`` is how many images it may have. Raises ``BadRequest``."""
    for asked in message.outputs:
        for key in {each.key for each in asked.parameters} & _UNSUPPORTED.keys():
            raise BadRequest(f"output '{asked.name[:64]}': {_UNSUPPORTED[key]} is not supported")
    return InferRequest(
        message.model_name,
        message.model_version,
        message.id,
        _inputs(message, most),
        parameters(message.parameters),
        tuple(asked.name for asked in message.outputs) or None,
    )


def parameters(given: Iterable[Any]) -> dict[str, Any]:
    """Return parameters as plain values. Raises ``BadRequest`` for one without a value."""
    found = {}
    for each in given:
        kind = each.value.WhichOneof("parameter_choice")
        if kind is None:
            raise BadRequest(f"parameters.{each.key[:64]}: no value")
        found[each.key] = getattr(each.value, kind)
    return found


def response(answer: Answer, *, raw: bool) -> Any:
    """Return the message of an answer, with raw bytes where the request had them."""
    message = TYPES["ModelInferResponse"](
        model_name=answer.model, model_version=answer.version, id=answer.id
    )
    for each in answer.outputs:
        output = message.outputs.add(name=each.name, datatype=each.datatype, shape=each.shape)
        if raw:
            message.raw_output_contents.append(bytes(tensor.to_binary(each)))
        else:
            values = each.data if isinstance(each.data, list) else tensor.to_values(each)
            getattr(output.contents, _CONTENTS[each.datatype]).extend(values)
    return message


def metadata(described: Metadata) -> Any:
    """Return the message of a model's description."""
    message = TYPES["ModelMetadataResponse"](
        name=described.name, versions=described.versions, platform=described.platform
    )
    for fields, listed in (
        (described.inputs, message.inputs),
        (described.outputs, message.outputs),
    ):
        for each in fields:
            _describe(each, listed)
    return message


def index(models: Iterable[IndexedModel]) -> Any:
    """Return the message of the repository's index."""
    message = TYPES["RepositoryIndexResponse"]()
    for each in models:
        message.models.add(
            name=each.name, version=each.version, state=each.state, reason=each.reason
        )
    return message


def _describe(field: Field, listed: Any) -> None:
    listed.add(name=field.name, datatype=field.datatype, shape=field.shape)


def _inputs(message: Any, most: int) -> tuple[Tensor, ...]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise BadRequest(
            f"raw_input_contents: {len(raw)} elements for {len(message.inputs)} inputs"
        )
    found = []
    for number, each in enumerate(message.inputs):
        if any(given.key == "shared_memory_region" for given in each.parameters):
            raise BadRequest(f"input '{each.name[:64]}': shared memory is not supported")
        if not raw:
            found.append(_from_contents(each))
        elif each.HasField("contents"):
            raise BadRequest(f"input '{each.name[:64]}': contents beside raw_input_contents")
        else:
            data = memoryview(raw[number])
            found.append(tensor.from_binary(each.name[:64], each.datatype, each.shape, data, most))
    return tuple(found)


def _from_contents(given: Any) -> Tensor:
    name = _CONTENTS.get(given.datatype)
    values = [] if name is None else list(getattr(given.contents, name))
    return tensor.from_values(given.name[:64], given.datatype, given.shape, values)
