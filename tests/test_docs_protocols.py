"""The pages of other protocols against the code."""

from __future__ import annotations

import re
from types import SimpleNamespace

import msgspec

from markdown_pages import read, rows, section
from mataserver.results import TASKS
from mataserver_oip import signature
from mataserver_oip.rpc import server
from mataserver_oip.rpc.methods import methods
from mataserver_openai import completion_request


def words(text):
    """Return what a cell quotes."""
    return re.findall(r"`([^`]*)`", text)


def test_the_fields_of_a_chat_are_described():
    """Every field is described, refused or passed over, on one place of the page alone."""
    text = read("openai.md")
    taken = {words(row[0])[0] for row in rows(section(text, "A question"), "field")}
    fields = set(completion_request.ChatRequest.__struct_fields__)
    assert taken == fields - {"n", "max_completion_tokens"}
    assert "`max_completion_tokens`" in section(text, "A question")
    refused = section(text, "What is refused")
    table = " ".join(row[0] for row in rows(refused, "field") if "messages" not in row[0])
    found = dict(re.findall(r"`(\w+)`(?: \(([^)]*)\))?", table))
    assert set(found) == set(completion_request.NEUTRAL)
    for name, neutral in completion_request.NEUTRAL.items():
        told = [value.strip("` ") for value in found[name].split(",")] if neutral else []
        assert told == [
            each if isinstance(each, str) else msgspec.json.encode(each).decode().replace(":", ": ")
            for each in neutral
        ], name
    passed = next(line for line in refused.split("\n\n") if line.startswith("These change"))
    assert set(words(passed)) == completion_request.IGNORED_FIELDS


def test_the_tensors_are_described():
    """The tables hold every input and output with datatype, dimensions and tasks."""
    text = read("oip.md")
    inputs = [(words(row[0])[0], words(row[1])[0]) for row in rows(text, "input")]
    assert inputs == [("image", "BYTES"), ("image", "UINT8"), ("params", "BYTES")]
    described = {}
    for name, datatype, shape, tasks, *_ in rows(text, "output"):
        sizes = words(shape)[0].strip("[]").split(", ")
        served = TASKS if tasks == "all" else tasks.split(", ")
        for task in served:
            described[task, words(name)[0]] = (words(datatype)[0], len(sizes), sizes[-1])
    actual = {}
    for task in TASKS:
        for field in signature.outputs(task):
            size = str(field.shape[-1])
            actual[task, field.name] = (field.datatype, len(field.shape), size)
    assert described.keys() == actual.keys()
    for key, (datatype, dimensions, last) in actual.items():
        assert described[key][:2] == (datatype, dimensions), key
        assert last == "-1" or described[key][2] == last, key


def test_the_methods_and_codes_are_described():
    """The tables hold every method, whether it needs a key, and the code of every status."""
    text = read("oip.md")
    described = {words(row[0])[0]: row[1] for row in rows(text, "method")}
    state = SimpleNamespace(models=None, settings=SimpleNamespace(queue_limit=1))
    actual = {name: "no" if each.public else "yes" for name, each in methods(state, None).items()}
    assert described == actual
    table = {row[0].partition(",")[0]: words(row[1])[0] for row in rows(text, "status")}
    assert table == {str(s): code.name for s, code in server._CODES.items()} | {"500": "INTERNAL"}
