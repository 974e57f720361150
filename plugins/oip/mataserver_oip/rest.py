"""The protocol's messages over REST: JSON, and the binary tensor extension.

With the extension a body is JSON, as long as the header ``Inference-Header-Content-Length`` says,
and behind it the bytes of those tensors that have ``binary_data_size``, in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from mataserver import JSON_LIMIT, BadRequest, TooLarge, decode_base64, describe_error
from mataserver_oip import json_tensors, tensor
from mataserver_oip.request import InferRequest

if TYPE_CHECKING:
    from mataserver_oip.server import Answer, Metadata
    from mataserver_oip.signature import Field
    from mataserver_oip.tensor import Tensor

LENGTH_HEADER = "Inference-Header-Content-Length"
MAX_OBJECT_BYTES = 16_384
"""Opening braces of a body that is looked into: its inputs are counted by building them."""

T = TypeVar("T")
Name = Annotated[str, Meta(min_length=1, max_length=512)]
Dimension = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Shape = Annotated[list[Dimension], Meta(max_length=tensor.MAX_DIMENSIONS)]


class InputParameters(Struct):
    """Parameters of an input tensor. ``binary_data_size`` is the length of its binary form."""

    binary_data_size: Annotated[int, Meta(ge=0)] | None = None
    shared_memory_region: str | None = None


class RequestInput(Struct):
    """One input tensor; ``data`` is a list, flat or nested, and left out for binary data."""

    name: Name
    datatype: Annotated[str, Meta(max_length=16)]
    shape: Shape
    data: Raw | UnsetType = UNSET
    parameters: InputParameters | None = None


class OutputParameters(Struct):
    """Parameters of an output that is asked for."""

    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class RequestOutput(Struct):
    """One output that is asked for."""

    name: Name
    parameters: OutputParameters | None = None


class InferBody(Struct):
    """An inference. Without ``outputs`` the answer holds all of them."""

    inputs: Annotated[list[RequestInput], Meta(min_length=1)]
    id: Annotated[str, Meta(max_length=512)] | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestOutput] | None = None


class _KnownInferBody(InferBody, forbid_unknown_fields=True):
    """An inference without unknown fields, as nearly all are."""


class IndexBody(Struct):
    """``POST /v2/repository/index``; with ``ready`` only models that are in memory."""

    ready: bool | None = None


class RepositoryBody(Struct):
    """``POST /v2/repository/models/{model_id}/load`` and ``…/unload``."""

    parameters: dict[str, Any] | None = None


class UnloadParameters(Struct):
    """What an unload may have: no model has others that depend on it."""

    unload_dependents: Any = None


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
        raise BadRequest(describe_error(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None


class _RawInput(Struct):
    data: Raw = Raw()


class _RawInferBody(Struct):
    inputs: list[_RawInput] = []


def _check_size(text: bytes) -> None:
    """Raise ``TooLarge`` when too much of a body is outside of its tensors' data."""
    if len(text) <= JSON_LIMIT:
        return
    inputs = [] if text.count(b"{") > MAX_OBJECT_BYTES else parse(text, _RawInferBody).inputs
    outside = len(text) - sum(len(memoryview(each.data)) for each in inputs)
    if outside > JSON_LIMIT:
        raise TooLarge(f"The body has over {JSON_LIMIT} bytes beside the data of its tensors")


def decode(
    body: bytes, header_length: int | None, model: str, version: str, most: int
) -> tuple[InferRequest, Binary, bytes]:
    """Read an inference, which outputs are wanted in binary form, and JSON with its fields' names.

    The last is empty unless one of them is unknown. ``header_length`` is the length of the JSON,
    None for all of the body; ``most`` is how many images a request may have. Raises ``BadRequest``.
    """
    length = len(body) if header_length is None else header_length
    if not 0 <= length <= len(body):
        raise BadRequest(f"{LENGTH_HEADER} is {length}, and the body has {len(body)} bytes")
    text = body[:length]  # the whole of it is no copy
    _check_size(text)
    asked, names = _parse_inference(text)
    inputs = _inputs(asked.inputs, memoryview(body)[length:], most)
    outputs, parameters = asked.outputs or [], asked.parameters or {}
    binary = _binary(outputs, parameters.get("binary_data_output"))
    wanted = tuple(each.name for each in outputs) or None
    request = InferRequest(model, version, asked.id or "", inputs, parameters, wanted)
    return request, binary, names


def _parse_inference(text: bytes) -> tuple[InferBody, bytes]:
    """Decode an inference; if it has unknown fields, also return its fields without their data."""
    try:
        return msgspec.json.decode(text, type=_KnownInferBody), b""
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        asked = parse(text, InferBody)  # raises unless only a field is unknown
    try:
        given = msgspec.json.decode(text, type=dict[str, Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):  # a name that is not UTF-8, which is skipped
        return asked, b""
    named = {name: None if bytes(value) == b"null" else True for name, value in given.items()}
    return asked, msgspec.json.encode(named)


def _binary(outputs: list[RequestOutput], usual: Any) -> Binary:
    """Return which outputs are wanted in binary form; ``usual`` is what the request says of all."""
    if not isinstance(usual, bool | None):
        raise BadRequest("parameters.binary_data_output: expected `bool`")
    binary = {"": bool(usual)}
    for each in outputs:
        _check_output(each)
        chosen = None if each.parameters is None else each.parameters.binary_data
        binary[each.name] = bool(usual) if chosen is None else chosen
    return binary


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
        said = each.parameters or InputParameters()
        size, data = said.binary_data_size, _listed(each)
        if said.shared_memory_region is not None:
            raise BadRequest(f"input '{each.name}': shared memory is not supported")
        if (size is None) == (data is None):
            raise BadRequest(f"input '{each.name}': give either data or binary_data_size")
        if size is not None:
            if size > len(rest):
                raise BadRequest(
                    f"input '{each.name}': binary_data_size is {size}, {len(rest)} bytes are left"
                )
            found = tensor.from_binary(each.name, each.datatype, each.shape, rest[:size], most)
            rest = rest[size:]
        elif data is not None:
            found = _from_json(each, data)
        inputs.append(found)
    if len(rest):
        raise BadRequest(f"{len(rest)} bytes behind the JSON belong to no input")
    return tuple(inputs)


def _listed(given: RequestInput) -> bytes | None:
    """Return the JSON of an input's list, or None when there is none."""
    data = given.data
    return None if data is UNSET or bytes(data) == b"null" else bytes(data)


def _from_json(given: RequestInput, data: bytes) -> Tensor:
    """Read the data of an input. JSON holds no bytes, so an encoded image is base64 there."""
    found = json_tensors.read(given.name, given.datatype, given.shape, data)
    if found.name == "image" and isinstance(found.data, list):
        found.data[:] = [decode_base64(each.decode()) for each in found.data]
    return found


def _check_output(asked: RequestOutput) -> None:
    given = asked.parameters or OutputParameters()
    if given.shared_memory_region is not None:
        raise BadRequest(f"output '{asked.name[:64]}': shared memory is not supported")
    if given.classification:
        raise BadRequest(f"output '{asked.name[:64]}': classification is not supported")
