"""What a body says of its sequence and of shared memory, however it is written, cut or packed."""

from __future__ import annotations

import gzip
import io
import json
import zlib

import grpc
import pytest
from gateway_stand import (  # noqa: F401
    KEY,
    application,
    stand,
    stand_on,
    targets,
    upstreams,
)
from multidict import CIMultiDict, CIMultiDictProxy
from test_gateway_rpc import CATS, door, rest  # noqa: F401
from test_gateway_rpc import INFER as MESSAGE

from mataserver import BadRequest, Unavailable
from mataserver_fleet.gateway.bodies import BodyTooLarge, BufferedBody
from mataserver_fleet.gateway.headers import HEADER_LENGTH
from mataserver_fleet.gateway.inspection import MAX_INFLATED, JsonPart, inspect_body
from mataserver_fleet.gateway.rpc import SERVICE
from mataserver_fleet.gateway.sequences import SequenceStep

BODY = json.dumps(
    {
        "id": "x",
        "inputs": [{"data": [1] * 50}],
        "parameters": {"sequence_id": 7, "sequence_end": True},
    }
).encode()
STEP = SequenceStep(7, start=False, end=True)
REGION = b'{"inputs":[{"name":"a","parameters":{"shared_memory_region" : "theirs"}}]}'
ESCAPED = REGION.replace(b"_m", b"\\u005f\\u006D")


class Held:
    """A share of a budget of some bytes."""

    def __init__(self, most=1 << 40):
        self.most, self.taken, self.peak = most, 0, 0

    def take(self, count):
        self.taken += count
        self.peak = max(self.peak, self.taken)
        if self.taken > self.most:
            raise Unavailable("too many")

    def give_back(self):
        self.taken = 0


async def looked(pieces, share=None, *, regions=False, **fields):
    """Look at a body that came in pieces."""
    given = CIMultiDictProxy(CIMultiDict({k.replace("_", "-"): v for k, v in fields.items()}))
    body = BufferedBody(pieces, sum(map(len, pieces)))
    return await inspect_body(body, given, share or Held(), regions=regions)


async def is_refused(pieces, **fields):
    """Whether a body is refused for the shared memory that it names."""
    try:
        await looked(pieces, **fields)
    except BadRequest as error:
        return "shared_memory_region" in error.detail
    return False


def raw(data):
    """Return what some call deflate: without a header."""
    packing = zlib.compressobj(wbits=-15)
    return packing.compress(data) + packing.flush()


def members(data):
    """Return gzip with a member for each of two halves."""
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


PACKED = [
    (gzip.compress, "gzip"),
    (gzip.compress, "X-GZIP"),
    (members, "gzip"),
    (zlib.compress, "deflate"),
    (raw, "deflate"),
]


@pytest.mark.parametrize("size", [1, 13, 40, 1000])
async def test_however_it_is_cut(size):
    """The seams of a body that came in pieces hide nothing."""
    for body in (BODY, BODY.replace(b"nce_id", b"nce\\u005fid")):
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
        assert await looked(pieces) == STEP
    for body in (REGION, ESCAPED):
        assert await is_refused([body[i : i + size] for i in range(0, len(body), size)])


@pytest.mark.parametrize(("pack", "encoding"), PACKED)
async def test_compressed(pack, encoding):
    """A compressed body is looked into, also where it came in pieces."""
    assert await looked([pack(BODY)], Content_Encoding=encoding) == STEP
    packed = pack(ESCAPED)
    assert await is_refused([packed], Content_Encoding=encoding)
    assert await is_refused([packed[:20], packed[20:]], Content_Encoding=encoding)
    assert await looked([packed], regions=True, Content_Encoding=encoding) is None


async def test_behind_its_json_are_tensors():
    """Bytes behind the JSON are no part of it, whatever they look like."""
    length = {HEADER_LENGTH.replace("-", "_"): str(len(BODY))}
    assert await looked([BODY + REGION, REGION * 9], **length) == STEP
    none = b'{"inputs":[]}'
    other = {HEADER_LENGTH.replace("-", "_"): str(len(none))}
    assert await looked([none + b'{"parameters":{"sequence_id":1}}'], **other) is None
    packed = gzip.compress(BODY + REGION)
    assert await looked([packed], Content_Encoding="gzip", **length) == STEP


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"parameters":{"sequence_id":0}}',
        b'{"parameters":{"sequence_id":""}}',
        b'{"parameters":null,"a":"sequence_id"}',
    ],
)
async def test_what_is_of_no_sequence(body):
    """No number is none, and a text may be of that name."""
    assert await looked([body]) is None
    assert await looked([gzip.compress(body)[:-9]], Content_Encoding="gzip") is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"parameters":{"sequence_id":1}}]}',
        b'{"sequence_id":1',
        b'{"sequence_id":1}',
        b'{"parameters":{"sequence_id":[1]}}',
        b'{"parameters":{"sequence_id":1.5}}',
        b'{"parameters":{"sequence_id":1},"parameters":{}}',
        b'{"parameters":{"sequence_id":1},"parameters":5}',
        b'{"parameters":{"sequence_id":1},"parameters":{"sequence_id":2}}',
        b'{"parameters":{"sequence_id":1,"sequence_\\u0069d":2}}',
        b'{"parameters":{"sequence_id":1},"inputs":[NaN]}',
    ],
)
async def test_a_sequence_that_another_reader_would_not_find(body):
    """It is refused: the server may take it for another one, and so for another consumer's."""
    for size in (11, 1000):
        with pytest.raises(BadRequest, match="sequence_id"):
            await looked([body[i : i + size] for i in range(0, len(body), size)])


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs":[{"data":["shared_memory_region", "b"]}]}',
        b'{"a":"shared_memory_region"}',
        b'{"a":"\\"shared_memory_region\\": 1"}',
        b'{"a":"\\\\u0073hared_memory_region","SHARED_MEMORY_REGION":1}',
        b'{"my_shared_memory_region":1,"shared_memory_region_":2}',
    ],
)
async def test_words_that_are_no_name_of_a_region(text):
    """A text that a model is given may speak of shared memory."""
    for size in (7, 1000):
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert await looked(pieces) is None


async def test_a_bomb():
    """What a body inflates to counts among the bytes in flight, and has an end."""
    bomb, share = gzip.compress(bytes(3_000_000)), Held(1_000_000)
    with pytest.raises(Unavailable):
        await looked([bomb], share, Content_Encoding="gzip")
    assert (share.peak <= 1_300_000, share.taken) == (True, 0)
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file:
        for _ in range(MAX_INFLATED // (1 << 20) + 1):
            file.write(bytes(1 << 20))
    with pytest.raises(BodyTooLarge):
        await looked([out.getvalue()], Content_Encoding="gzip")
    few = {HEADER_LENGTH.replace("-", "_"): "2"}
    assert await looked([out.getvalue()], Content_Encoding="gzip", **few) is None


async def test_what_is_damaged():
    """It is refused: a server that does not look at sums would read what was not seen here."""
    wrong = bytearray(gzip.compress(REGION))
    wrong[-6] ^= 1
    with pytest.raises(BadRequest, match="Content-Encoding"):
        await looked([bytes(wrong)], Content_Encoding="gzip")


TWICE = [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]
LENGTHS = [(HEADER_LENGTH, "2"), (HEADER_LENGTH, "74")]


@pytest.mark.parametrize("fields", [TWICE, TWICE[::-1], LENGTHS, LENGTHS[::-1]])
async def test_fields_that_tell_twice_what_is_json(fields):
    """The server might go by the other one."""
    given = CIMultiDictProxy(CIMultiDict(fields))
    with pytest.raises(BadRequest):
        await inspect_body(BufferedBody([gzip.compress(REGION)], 9), given, Held(), regions=False)


LONG = REGION[:-1] + b'"' + b"0123456789abcdef" * 600_000
SHARED = [
    (REGION, {}),
    (ESCAPED, {}),
    (REGION + bytes(50_000), {HEADER_LENGTH: str(len(REGION))}),
    (gzip.compress(REGION), {"Content-Encoding": "gzip"}),
    (b" " * 9_000_000 + REGION, {}),
    (REGION[:-1] + b" " * 9_000_000 + b"}", {}),
    (zlib.compress(LONG, 0), {"Content-Encoding": "deflate"}),
]  # fmt: skip


async def test_no_consumer_names_shared_memory(stand, upstreams, targets):  # noqa: F811
    """However it is sent, kept or passed through, the server never has the whole of it."""
    stand.follow(application(*targets[:1]))
    for body, fields in SHARED:
        status, answer, _ = await stand.ask(body=body, headers=fields)
        assert (status, "shared_memory_region" in answer["error"]) == (400, True), answer
    assert upstreams[0].seen == []


@pytest.mark.parametrize("again", [0, 3])
async def test_what_connection_names(stand, upstreams, targets, again):  # noqa: F811
    """What tells where the JSON ends passes, though it be named for the next hop alone.

    Else the server would read as JSON what was not looked at. Also by a head that is known.
    """
    stand.follow(application(*targets[:1]))
    fields = {HEADER_LENGTH: "2", "Connection": f"keep-alive, {HEADER_LENGTH}, Content-Encoding"}
    for _ in range(again):
        assert (await stand.ask(body=b"{}" + bytes(len(REGION) - 2), headers=fields))[0] == 200
    body = b"{}" + REGION[2:]
    assert (await stand.ask(body=body, headers=fields))[0] == 200
    assert upstreams[0].seen[-1].headers[HEADER_LENGTH] == "2"
    assert (await stand.ask(headers={"Content-Encoding": "identity", **fields}))[0] == 200
    assert upstreams[0].seen[-1].headers["Content-Encoding"] == "identity"
    like = {HEADER_LENGTH.replace("-", "_"): "1", "Content_Encoding": "gzip"}
    assert (await stand.ask(headers=like))[0] == 200
    assert not {*like} & {*upstreams[0].seen[-1].headers}


LATE = [
    b'{"parameters":{"sequence_id":7},"a":"' + b" " * 9_000_000 + b'"}',
    b'{"a":"' + b" " * 9_000_000 + b'","parameters":{"sequence_id":7}}',
]


@pytest.mark.parametrize("body", LATE, ids=["first", "last"])
async def test_a_sequence_in_a_body_that_passes_through(stand, upstreams, targets, body):  # noqa: F811
    """It is refused where it cannot be read before it is sent: it might go to any server."""
    stand.follow(application(*targets[:1]))
    status, answer, _ = await stand.ask(body=body)
    assert (status, "sequence_id" in answer["error"]) == (400, True)
    assert upstreams[0].seen == []
    told = b'{"parameters":{"sequence_id":7,"sequence_start":true}}'
    passes = told + bytes(9_000_000)
    assert (await stand.ask(body=passes, headers={HEADER_LENGTH: str(len(told))}))[0] == 200


async def test_an_application_whose_consumers_may(tmp_path, upstreams, targets):  # noqa: F811
    """One that the settings name; another of the same server's may not."""
    async with stand_on(tmp_path, shared_memory=["shop"]) as made:
        made.follow(application(*targets[:1]), application(*targets[:1], name="other"))
        for body, fields in SHARED:
            status, _, _ = await made.ask(body=body, headers=fields)
            assert status == 200
        other = "/gateway/other/v2/models/cats/infer"
        assert (await made.ask(other, REGION))[0] == 400
    assert len(upstreams[0].seen) == len(SHARED)


def tensor(number, parameters, key=b"shared_memory_region"):
    """Return a tensor of a message, whose parameters have a key."""
    entry = b"\x0a%c%b\x12\x03\x1a\x01x" % (len(key), key)
    inner = b"\x0a\x01a%c%c%b" % (parameters << 3 | 2, len(entry), entry)
    return b"%c%c%b" % (number << 3 | 2, len(inner), inner)


NAMED = [MESSAGE + tensor(5, 4), tensor(6, 2) + MESSAGE, CATS + tensor(5, 4) + tensor(6, 2)]
UNNAMED = [
    MESSAGE + tensor(5, 3),
    MESSAGE + tensor(5, 4, b"other"),
    CATS + b"\x3a\x14shared_memory_region",
]


async def test_shared_memory_by_grpc(door):  # noqa: F811
    """Inputs and outputs alike; a tensor may hold the word."""
    for message in NAMED:
        assert await door.ask(message=message) == "INVALID_ARGUMENT"
    assert door.peers[0].seen == []
    for message in UNNAMED:
        assert await door.ask(message=message) == b"one:" + message
    many = (b"\x2a\x0c" + b"\x18\x01" * 6) * 4_000
    assert await door.ask(message=MESSAGE + many + tensor(5, 4)) == "INVALID_ARGUMENT"


async def test_shared_memory_in_a_stream(door):  # noqa: F811
    """The message that names it ends the stream; the server has seen those before it."""
    call = door.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(metadata=(("apikey", KEY),))
    await call.write(MESSAGE)
    assert [await call.read(), await call.read()] == [b"one1", b"one2"]
    with pytest.raises(grpc.aio.AioRpcError) as error:  # noqa: PT012 - either tells of the end
        await call.write(NAMED[0])
        await rest(call)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(door.peers[0].seen) == 1


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_json_in_pieces_is_plain_wherever_it_is_cut(at):
    """What tensors follow it is not looked at; a sequence is found across the cut."""
    plain, told = b'{"inputs":[{"name":"x"}],"outputs":[]}', b'{"parameters":{"sequence_id":7}}'
    for text, without in ((plain, True), (told, False)):
        body = text + b"sequence_id" + bytes(2_000_000)
        part = JsonPart(CIMultiDictProxy(CIMultiDict({HEADER_LENGTH: str(len(text))})))
        pieces = (memoryview(body)[:at], body[at:100], body[100:])
        assert part.needs_no_inspection(pieces, len(body)) is without
