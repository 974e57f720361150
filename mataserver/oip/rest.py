"""The protocol's messages over REST: JSON, and the binary tensor extension.

With the extension a body is JSON, as long as the header ``Inference-Header-Content-Length`` says,
and behind it the bytes of those tensors that have ``binary_data_size``, in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from mataserver import data_uri
from mataserver.errors import BadRequest
from mataserver.oip import tensor
from mataserver.oip.request import InferRequest
from mataserver.params import describe

if TYPE_CHECKING:
    from mataserver.oip.server import Answer, Metadata
    from mataserver.oip.signature import Field
    from mataserver.oip.tensor import Tensor

LENGTH_HEADER = "Inference-Header-Content-Length"

T = TypeVar("T")
Name = Annotated[str, Meta(min_length=1, max_length=512)]
Dimension = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Shape = Annotated[list[Dimension], Meta(max_length=tensor.MAX_DIMENSIONS)]


class InputParameters(Struct):
    """Parameters of an input tensor. ``binary_data_size`` is the length of its binary form."""

    binary_data_size: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    shared_memory_region: str | UnsetType = UNSET


class RequestInput(Struct):
    """One input tensor; ``data`` is a list, flat or nested, and left out for binary data."""

    name: Name
    datatype: Annotated[str, Meta(max_length=16)]
    shape: Shape
    data: Raw | UnsetType = UNSET
    parameters: InputParameters = msgspec.field(default_factory=InputParameters)


class OutputParameters(Struct):
    """Parameters of an output that is asked for."""

    binary_data: bool | UnsetType = UNSET
    classification: int | UnsetType = UNSET
    shared_memory_region: str | UnsetType = UNSET


class RequestOutput(Struct):
    """One output that is asked for."""

    name: Name
    parameters: OutputParameters = msgspec.field(default_factory=OutputParameters)


class InferBody(Struct):
    """An inference. Without ``outputs`` the answer holds all of them."""

    inputs: Annotated[list[RequestInput], Meta(min_length=1)]
    id: Annotated[str, Meta(max_length=512)] = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    outputs: list[RequestOutput] = msgspec.field(default_factory=list)


class ResponseOutput(Struct, omit_defaults=True):
    """One output tensor; ``data`` is a flat list, left out for binary data."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | UnsetType = UNSET
    parameters: dict[str, int] | UnsetType = UNSET


class InferAnswer(Struct, omit_defaults=True):
    """The answer to an inference."""

    model_name: str
    model_version: str
    outputs: list[ResponseOutput]
    id: str = ""


class TensorMetadata(Struct, omit_defaults=True):
    """One tensor of a model; -1 is a dimension that varies."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, bool | str] | UnsetType = UNSET


class ModelMetadata(Struct):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


Binary = dict[str, bool]
"""Whether an output is wanted in binary form, by its name; "" stands for every other output."""


def parse(data: bytes | memoryview, kind: type[T]) -> T:
    """Decode a JSON body. Raises ``BadRequest`` naming what is wrong."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(describe(error, "") or "the body must be a JSON object") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None


def decode(
    body: bytes, header_length: int | None, model: str, version: str, most: int
) -> tuple[InferRequest, Binary]:
    """Read an inference, and which outputs are wanted in binary form.

    ``header_length`` is the length of the JSON, None for all of the body; ``most`` is how many
    images a request may have. Raises ``BadRequest``.
    """
    length = len(body) if header_length is None else header_length
    if not 0 <= length <= len(body):
        raise BadRequest(f"{LENGTH_HEADER} is {length}, and the body has {len(body)} bytes")
    asked = parse(memoryview(body)[:length], InferBody)
    inputs = _inputs(asked.inputs, memoryview(body)[length:], most)
    for each in asked.outputs:
        _check_output(each)
    usual = asked.parameters.get("binary_data_output", False)
    if not isinstance(usual, bool):
        raise BadRequest("parameters.binary_data_output: expected `bool`")
    binary = {"": usual}
    for each in asked.outputs:
        chosen = each.parameters.binary_data
        binary[each.name] = usual if chosen is UNSET else chosen
    names = tuple(each.name for each in asked.outputs) or None
    return InferRequest(model, version, asked.id, inputs, asked.parameters, names), binary


def encode(answer: Answer, binary: Binary) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON where binary data follow it."""
    outputs, parts = [], []
    for each in answer.outputs:
        output = ResponseOutput(each.name, each.datatype, list(each.shape))
        if binary.get(each.name, binary[""]):
            part = tensor.to_binary(each)
            output.parameters = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            output.data = tensor.to_values(each)
        outputs.append(output)
    text = msgspec.json.encode(InferAnswer(answer.model, answer.version, outputs, answer.id))
    return (b"".join((text, *parts)), len(text)) if parts else (text, None)


def metadata(described: Metadata) -> ModelMetadata:
    """Return a model's description."""
    inputs = [_described(each) for each in described.inputs]
    inputs[0].parameters = {"optional": False, "alternative": "UINT8 [H,W,3] or [N,H,W,3]"}
    inputs[1].parameters = {"optional": True}
    outputs = [_described(each) for each in described.outputs]
    versions = list(described.versions)
    return ModelMetadata(described.name, versions, described.platform, inputs, outputs)


def _described(field: Field) -> TensorMetadata:
    return TensorMetadata(field.name, field.datatype, list(field.shape))


def _inputs(given: list[RequestInput], rest: memoryview, most: int) -> tuple[Tensor, ...]:
    """Read every input; the binary data behind the JSON must be used up exactly."""
    inputs = []
    for each in given:
        size = each.parameters.binary_data_size
        if each.parameters.shared_memory_region is not UNSET:
            raise BadRequest(f"input '{each.name}': shared memory is not supported")
        if (size is UNSET) == (each.data is UNSET):
            raise BadRequest(f"input '{each.name}': give either data or binary_data_size")
        if isinstance(size, int):
            if size > len(rest):
                raise BadRequest(
                    f"input '{each.name}': binary_data_size is {size}, {len(rest)} bytes are left"
                )
            found = tensor.from_binary(each.name, each.datatype, each.shape, rest[:size], most)
            rest = rest[size:]
        else:
            found = _from_json(each, each.data)
        inputs.append(found)
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes behind the JSON belong to no input")
    return tuple(inputs)


def _from_json(given: RequestInput, data: Any) -> Tensor:
    """Read the data of an input. JSON holds no bytes, so an encoded image is base64 there."""
    values = parse(data, Any)
    if not isinstance(values, list):
        raise BadRequest(f"input '{given.name}': data must be a list")
    found = tensor.from_values(given.name, given.datatype, given.shape, values)
    if found.name == "image" and isinstance(found.data, list):
        found.data[:] = [data_uri.decode(each.decode()) for each in found.data]
    return found


def _check_output(asked: RequestOutput) -> None:
    given = asked.parameters
    if given.shared_memory_region is not UNSET:
        raise BadRequest(f"output '{asked.name[:64]}': shared memory is not supported")
    if given.classification not in {UNSET, 0}:
        raise BadRequest(f"output '{asked.name[:64]}': classification is not supported")
