"""Reads ``config.pbtxt``: protobuf's text format, held against Triton's schema."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, text_format
from google.protobuf.descriptor_pb2 import (
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from mataserver import BadRequest
from mataserver_fleet.schema import ENUMERATIONS, MAX_BYTES, MESSAGES, NAME

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import (
        DescriptorProto,
    )
    from google.protobuf.message import Message

_PACKAGE = "fleet"
_KINDS = {
    name: getattr(FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("string", "bool", "int32", "int64", "uint32", "uint64", "float", "double", "bytes")
}


def read(data: bytes) -> dict[str, Any]:
    """Return a configuration as JSON's values, fields by their names in the schema.

    Raises ``BadRequest``, with line and column, for what is no configuration.
    """
    if len(data) > MAX_BYTES:
        raise BadRequest(f"{NAME}: larger than {MAX_BYTES} bytes")
    message = _kind()()
    try:
        text_format.Parse(data.decode(), message)
    except (UnicodeDecodeError, text_format.ParseError, RecursionError) as error:
        raise BadRequest(f"{NAME}: {str(error)[:300]}") from None
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def write(config: dict[str, Any]) -> bytes:
    """Return a configuration as text. Raises ``BadRequest`` for what is none."""
    message = _kind()()
    try:
        json_format.ParseDict(config, message)
    except json_format.ParseError as error:
        raise BadRequest(f"{NAME}: {str(error)[:300]}") from None
    return str(text_format.MessageToString(message)).encode()


@cache
def _kind() -> type[Message]:
    """Return the class of configurations, in a pool of its own.

    The schema of Triton's own client, in the same process, would clash with it in the common one.
    """
    pool = DescriptorPool()
    pool.Add(_file())
    kind: type[Message] = GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelConfig"))
    return kind


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(name="fleet.proto", package=_PACKAGE, syntax="proto3")
    enumerations = _enumerations()
    for name, values in enumerations.items():
        enumeration = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            # Values of one scope must differ, and two enumerations may have the same.
            enumeration.value.add(name=value, number=number)
    for block in MESSAGES.strip().split("\n"):
        if not block.startswith(" "):
            message = file.message_type.add(name=block)
            choices: list[str] = []
        else:
            _add(message, block.split(), choices, set(enumerations))
    return file


def _enumerations() -> dict[str, list[str]]:
    lines = ENUMERATIONS.replace("\n ", "").strip().split("\n")
    return {name: values for name, *values in (line.split() for line in lines)}


def _add(
    message: DescriptorProto, words: list[str], choices: list[str], enumerations: set[str]
) -> None:
    """Add a field to a message: what a line of the schema says."""
    field = message.field.add(number=int(words.pop(0)), label=FieldDescriptorProto.LABEL_OPTIONAL)
    if words[-2] == "of":
        choice = words.pop()
        words.pop()
        if choice not in choices:
            choices.append(choice)
            message.oneof_decl.add(name=choice)
        field.oneof_index = choices.index(choice)
    field.name = words.pop()
    if words[0] == "map":
        entry = _entry(message, field.name, words[1:], enumerations)
        _type(field, entry, enumerations)
        field.label = FieldDescriptorProto.LABEL_REPEATED
        return
    if words[0] == "repeated":
        field.label = FieldDescriptorProto.LABEL_REPEATED
    _type(field, words[-1], enumerations)


def _entry(message: DescriptorProto, name: str, kinds: list[str], enumerations: set[str]) -> str:
    """Add the type of a map's entries to a message; return its name."""
    entry = message.nested_type.add(name="".join(map(str.title, name.split("_"))) + "Entry")
    entry.options.map_entry = True
    for number, (field, kind) in enumerate(zip(("key", "value"), kinds, strict=True), 1):
        label = FieldDescriptorProto.LABEL_OPTIONAL
        _type(entry.field.add(name=field, number=number, label=label), kind, enumerations)
    return f"{message.name}.{entry.name}"


def _type(field: FieldDescriptorProto, kind: str, enumerations: set[str]) -> None:
    if kind in _KINDS:
        field.type = _KINDS[kind]
        return
    in_it = kind in enumerations
    field.type = FieldDescriptorProto.TYPE_ENUM if in_it else FieldDescriptorProto.TYPE_MESSAGE
    field.type_name = f".{_PACKAGE}.{kind}"
