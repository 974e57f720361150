"""The protocol's messages, in a descriptor pool of our own.

Protobuf's usual pool is one per process and knows each message's name once, so two libraries that
both bring ``inference.ModelInferRequest`` (the clients of Triton and of KServe do) cannot be
imported together. In a pool of its own ours can live beside either.

Names, numbers and types are those of the protocol's ``GRPCInferenceService`` with Triton's
extension for model repositories. Where that nests messages, ours stand side by side, and a map is
a list of its entries: the bytes are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto

PACKAGE = "inference"

_SCHEMA: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("1 bool live",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("1 bool ready",),
    "ModelReadyRequest": ("1 string name", "2 string version"),
    "ModelReadyResponse": ("1 bool ready",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("1 string name", "2 string version", "3 string[] extensions"),
    "ModelMetadataRequest": ("1 string name", "2 string version"),
    "TensorMetadata": ("1 string name", "2 string datatype", "3 int64[] shape"),
    "ModelMetadataResponse": (
        "1 string name",
        "2 string[] versions",
        "3 string platform",
        "4 TensorMetadata[] inputs",
        "5 TensorMetadata[] outputs",
    ),
    "InferParameter": (
        "1 bool bool_param",
        "2 int64 int64_param",
        "3 string string_param",
        "4 double double_param",
        "5 uint64 uint64_param",
    ),
    "Parameter": ("1 string key", "2 InferParameter value"),
    "InferTensorContents": (
        "1 bool[] bool_contents",
        "2 int32[] int_contents",
        "3 int64[] int64_contents",
        "4 uint32[] uint_contents",
        "5 uint64[] uint64_contents",
        "6 float[] fp32_contents",
        "7 double[] fp64_contents",
        "8 bytes[] bytes_contents",
    ),
    "InferInputTensor": (
        "1 string name",
        "2 string datatype",
        "3 int64[] shape",
        "4 Parameter[] parameters",
        "5 InferTensorContents contents",
    ),
    "InferRequestedOutputTensor": ("1 string name", "2 Parameter[] parameters"),
    "ModelInferRequest": (
        "1 string model_name",
        "2 string model_version",
        "3 string id",
        "4 Parameter[] parameters",
        "5 InferInputTensor[] inputs",
        "6 InferRequestedOutputTensor[] outputs",
        "7 bytes[] raw_input_contents",
    ),
    "InferOutputTensor": (
        "1 string name",
        "2 string datatype",
        "3 int64[] shape",
        "4 Parameter[] parameters",
        "5 InferTensorContents contents",
    ),
    "ModelInferResponse": (
        "1 string model_name",
        "2 string model_version",
        "3 string id",
        "4 Parameter[] parameters",
        "5 InferOutputTensor[] outputs",
        "6 bytes[] raw_output_contents",
    ),
    "RepositoryIndexRequest": ("1 string repository_name", "2 bool ready"),
    "ModelIndex": ("1 string name", "2 string version", "3 string state", "4 string reason"),
    "RepositoryIndexResponse": ("1 ModelIndex[] models",),
    "RepositoryModelLoadRequest": (
        "1 string repository_name",
        "2 string model_name",
        "3 Parameter[] parameters",
    ),
    "RepositoryModelLoadResponse": (),
    "RepositoryModelUnloadRequest": (
        "1 string repository_name",
        "2 string model_name",
        "3 Parameter[] parameters",
    ),
    "RepositoryModelUnloadResponse": (),
}
"""Each message's fields: number, type (a list with brackets) and name."""

_CHOICES = {"InferParameter": "parameter_choice"}
"""Messages of whose fields one is set."""


def _types() -> dict[str, type[Any]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="mataserver/inference.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        if name in _CHOICES:
            message.oneof_decl.add(name=_CHOICES[name])
        for field in fields:
            _add(message, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in _SCHEMA)
    return {each.name: message_factory.GetMessageClass(each) for each in found}


def _add(message: DescriptorProto, text: str) -> None:
    kinds: Any = descriptor_pb2.FieldDescriptorProto
    number, kind, name = text.split()
    field = message.field.add(name=name, number=int(number))
    many, single = kind.endswith("[]"), kind.removesuffix("[]")
    field.label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
    if single in _SCHEMA:
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{single}"
    else:
        field.type = kinds.Type.Value(f"TYPE_{single.upper()}")
    if message.name in _CHOICES:
        field.oneof_index = 0


TYPES = _types()
"""The classes of the messages, by their names."""
