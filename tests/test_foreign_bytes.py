"""Every parser of bytes that strangers send: whatever comes is read, or refused in a sentence."""

from __future__ import annotations

import contextlib
import gzip
import struct

import msgspec
import pytest
from aiohttp import WebSocketError
from hypothesis import given
from hypothesis import strategies as st

from conftest import picture
from foreign_bytes import FEW, damaged, parsed, seeded
from mataserver.engines import payload, plain_classes, single_job, wire
from mataserver.engines.work import Outcome, Timing
from mataserver.errors import Unavailable
from mataserver.http import auth, forms, json_body
from mataserver.http.browsers import HostNames, is_foreign
from mataserver.http.content_encoding import Decompressor
from mataserver.http.infer_repeats import InferBody
from mataserver.http.websocket_framing import FrameChecker
from mataserver.media import netpbm
from mataserver_oip import request as oip_request
from mataserver_oip import rest
from mataserver_oip.rpc import convert
from mataserver_oip.rpc.messages import TYPES
from mataserver_openai import completion_request

BOUNDARY = "b"
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nfake\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nbytes\r\n--b--\r\n'
)
JSON = b'{"model": "m", "image": "aGk=", "params": {"confidence": 0.5, "a": [1, null, "\\u00e9"]}}'
CHAT = (
    b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "what?"},'
    b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}], "top_p": 1}'
)
OIP = (
    b'{"id": "1", "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1],'
    b'"parameters": {"binary_data_size": 6}}], "outputs": [{"name": "boxes"}]}\x02\0\0\0hi'
)


@FEW
@seeded("forms", boundary="b")
@given(damaged(FORM, of="forms"), st.text(max_size=5))
def test_forms(data, boundary):
    """A multipart body."""
    parsed(forms.parse, data, BOUNDARY)
    parsed(forms.parse, data, boundary)


@FEW
@seeded("json")
@given(damaged(JSON, CHAT, b"[" * 200, b'{"a":' * 200, of="json"))
def test_json(data):
    """A body of JSON."""
    parsed(json_body.decode, data, InferBody)


@FEW
@seeded("chats")
@given(damaged(CHAT, of="chats"))
def test_chats(data):
    """A chat in OpenAI's form."""
    parsed(completion_request.read, data)


@FEW
@seeded("tensors", length=lambda data: data.rfind(b"]}") + 2)
@given(damaged(OIP, of="tensors"), st.one_of(st.none(), st.integers(0, 300)))
def test_tensors(data, length):
    """JSON with binary data behind it."""

    def read():
        asked, *_ = rest.decode(data, length, "m", "", 8)
        return oip_request.read(asked, 8)

    parsed(read)


def message():
    """Return an inference as gRPC carries it."""
    made = TYPES["ModelInferRequest"](model_name="m", id="1")
    made.inputs.add(name="image", datatype="BYTES", shape=[1])
    made.raw_input_contents.append(b"\x02\0\0\0hi")
    made.parameters.add(key="top_k", value=TYPES["InferParameter"](int64_param=3))
    return made.SerializeToString()


@FEW
@seeded("grpc")
@given(damaged(message(), of="grpc"))
def test_messages_of_grpc(data):
    """A message of gRPC: what protobuf cannot read is refused before."""
    from google.protobuf.message import DecodeError

    try:
        made = TYPES["ModelInferRequest"].FromString(data)
    except DecodeError:
        return
    parsed(lambda: oip_request.read(convert.request(made, 8), 8))


@FEW
@seeded("compressed", encoding="gzip", step=50)
@seeded("compressed", encoding="deflate", step=7)
@given(
    damaged(gzip.compress(JSON), of="compressed"),
    st.sampled_from(["gzip", "deflate"]),
    st.integers(1, 50),
)
def test_compressed_bodies(data, encoding, step):
    """A body that says it is compressed."""

    def read():
        inflater = Decompressor(encoding)
        cuts = [data[at : at + step] for at in range(0, len(data), step)]
        pieces = [piece for cut in cuts for piece in inflater.feed(cut)]
        return b"".join([*pieces, inflater.finish()])

    parsed(read)


@FEW
@seeded("pixels")
@given(
    damaged(
        b"P6 2 1 255\n\0\0\0\1\1\1", b"P5 2 1 65535\n\0\0\1\1", picture(form="PPM"), of="pixels"
    )
)
def test_pixels(data):
    """A picture whose pixels stand as they are."""
    parsed(netpbm.decode, data, 1_000_000)


def frames():
    """Return what a worker says, in one piece: an answer to one job, and one to several."""
    facts = wire.Header(wire.Answer(1, []), [3, 2], [])
    alone = single_job.pack_answer(2, Outcome(b"{}", Timing(1.0, 2.0, 3.0)), None)
    return b"".join(map(bytes, (*alone, *wire.frame_with_header(facts, [b"abc", b"de"]))))


@FEW
@given(damaged(frames()), st.integers(1, 40))
def test_what_a_worker_says(data, step):
    """A worker runs strangers' code: what is no message raises, and nothing is ever unpickled."""
    unframer = wire.FrameSplitter()
    refused = (ValueError, msgspec.DecodeError, struct.error)  # the server ends that worker
    with contextlib.suppress(*refused):
        for at in range(0, len(data), step):
            for received in unframer.feed(data[at : at + step]):
                alone = isinstance(received, memoryview)
                single_job.read_answer(received, None) if alone else wire.parts(received)


PACKED = [bytes(part) for part in payload.pack({"a": (1, [2.5, b"x" * 10]), "b": {3}}).parts]


@FEW
@given(damaged(PACKED[0]))
def test_what_a_call_answers(data):
    """A value that a model gives a service."""
    with contextlib.suppress(plain_classes.NotSerializableError):
        payload.unpack([data, *PACKED[1:]], plain_classes.package_resolver("", frozenset()))


@FEW
@given(st.text(max_size=60), st.text(max_size=60))
def test_credentials(authorization, key):
    """Headers with credentials, as bytes that are no text arrive."""
    list(auth.credentials_of_metadata([("authorization", authorization), ("x-api-key", key)], "/"))
    list(auth.credentials_of_metadata([("authorization", f"Basic {authorization}")], "/"))


@FEW
@given(st.text(max_size=60), st.text(max_size=60))
def test_hosts_and_origins(host, origin):
    """Headers that tell a server's name and a page's."""
    HostNames(["a.example"]).matches(host)
    is_foreign({"Origin": origin}, "https", host, ())


# the frames of a WebSocket


class Peer:
    """What stands behind the framing: keeps what it is fed."""

    def __init__(self):
        self.data = b""
        self.failure = None
        self.taken = 0
        self.rest = b""

    def keep(self, rest):
        """Keep what is processed later."""
        assert not self.rest
        self.rest = rest

    def feed_data(self, data):
        self.data += data
        return False, b""

    def feed_eof(self):
        """Learn of the end."""

    def take(self, count):
        if self.taken + count > 1_000:
            raise Unavailable("Too many request bytes are in flight")
        self.taken += count

    def give_back(self):
        self.taken = 0

    def fail(self, error):
        assert self.failure is None
        self.failure = error


def frame(payload_bytes, opcode=2, *, fin=True, masked=True):
    """Return a frame."""
    size, mask = len(payload_bytes), 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([mask | size])
    elif size < 65_536:
        head += struct.pack("!BH", mask | 126, size)
    else:
        head += struct.pack("!BQ", mask | 127, size)
    return head + (b"\0\0\0\0" if masked else b"") + payload_bytes


PIECES = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from([0, 1, 2, 8, 9, 10]), st.booleans()), max_size=8
)


@FEW
@given(PIECES, st.integers(1, 64))
def test_frames_in_any_pieces(pieces, step):
    """Masked frames pass unchanged however they are cut; what is not whole is what is held."""
    data = b"".join(
        frame(b"x" * (size % 100 if opcode > 7 else size), opcode, fin=fin or opcode > 7)
        for size, opcode, fin in pieces
    )
    peer = Peer()
    framing = FrameChecker(peer, peer, peer.fail, peer.keep)
    for at in range(0, len(data), step):
        if framing.feed_data(data[at : at + step])[0]:
            assert peer.failure.code == 1013
            assert not peer.taken
            return
        assert peer.taken <= 1_000
    assert peer.data == data
    unfinished = 0
    for size, opcode, fin in pieces:
        if opcode < 8:
            unfinished = 0 if fin else unfinished + size
    assert peer.taken == unfinished


@FEW
@given(st.binary(max_size=200), st.integers(1, 50))
def test_frames_that_are_none(data, step):
    """Whatever comes in place of frames is handed on or refused."""
    peer = Peer()
    framing = FrameChecker(peer, peer, peer.fail, peer.keep)
    for at in range(0, len(data), step):
        if framing.feed_data(data[at : at + step])[0]:
            assert peer.failure.code in {1002, 1013}
            return
    assert peer.data == data


@FEW
@given(PIECES, st.integers(1, 64))
def test_messages_that_are_ignored(pieces, step):
    """Of a client that nobody listens to only pings, pongs and goodbyes pass; nothing is held."""
    frames_of = [
        (opcode, frame(b"x" * (size % 100 if opcode > 7 else size), opcode, fin=fin or opcode > 7))
        for size, opcode, fin in pieces
    ]
    data = b"".join(each for _, each in frames_of)
    peer = Peer()
    framing = FrameChecker(peer, peer, peer.fail, peer.keep)
    framing.ignore()
    for at in range(0, len(data), step):
        assert framing.feed_data(data[at : at + step]) == (False, b"")
        assert not peer.taken
    assert peer.data == b"".join(each for opcode, each in frames_of if opcode > 7)


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_frame_without_a_mask(cut):
    """It is refused wherever its header is cut, and nothing of it is handed on."""
    peer = Peer()
    framing = FrameChecker(peer, peer, peer.fail, peer.keep)
    data = frame(b"abc") + frame(b"defgh", masked=False)
    cuts = (data[at : at + cut] for at in range(0, len(data), cut))
    assert any(framing.feed_data(each)[0] for each in cuts)
    assert isinstance(peer.failure, WebSocketError)
    assert peer.failure.code == 1002


@pytest.mark.parametrize("more", [0, 4, 100])
def test_a_frame_without_a_mask_is_offered_to_nobody(more):
    """However much comes behind it, of which the first four bytes could be taken for its mask."""
    peer, offered = Peer(), []
    framing = FrameChecker(peer, peer, peer.fail, peer.keep)
    framing.handler = lambda data, at, end: not offered.append(data[at:end])
    assert framing.feed_data(frame(b"defgh", masked=False) + bytes(more))[0]
    assert peer.failure.code == 1002
    assert not offered


def test_a_worker_is_not_heard_out_for_ever():
    """A frame that says to be larger than any answer is refused by its first bytes."""
    unframer = wire.FrameSplitter(1000)
    assert list(unframer.feed(wire.PREFIX.pack(10, 1000))) == []
    with pytest.raises(ValueError, match="too large"):
        list(wire.FrameSplitter(1000).feed(wire.PREFIX.pack(10, 1001)))
