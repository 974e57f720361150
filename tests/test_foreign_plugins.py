"""Parsers of plugins for bytes that strangers send: read, or refused in a sentence."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import warnings
import zipfile

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from conftest import picture
from foreign_bytes import FEW, damaged, parsed, seeded
from mataserver import MataError
from mataserver_accounts import login_routes
from mataserver_accounts.tokens import Tokens
from mataserver_cameras import source
from mataserver_fleet import layout, manifest, onnx_signature, pbtxt
from mataserver_fleet.gateway import headers, http1, inspection, protobuf
from mataserver_jobs import upload_routes, upload_writer
from mataserver_reconstruct import archive, exif
from mataserver_reconstruct.spec import Limits

pytestmark = pytest.mark.long

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
    b"Connection: keep-alive, X-Own\r\nX-Own: 1"
)
CHUNKS = b"5;a=b\r\nhello\r\n0a\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n"
BODY = {"parameters": {"sequence_id": 7, "sequence_start": True}, "inputs": []}
CONFIG = (
    b'name: "cats"\nbackend: "onnxruntime"\nmax_batch_size: 8\n'
    b'input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] } ]\n'
)
MANIFEST = (
    b"tritons:\n- {name: one, host: 10.0.0.1, port: 8000}\nmodels:\n- {name: cats, tags: [a]}\n"
)
SIGNATURE = bytes.fromhex(
    "0807 3a22 5a0f 0a0178 120a 0a08 0801 1204 0a020802 620f 0a0179 120a 0a08 0801 1204 0a020802"
)
TEXT = st.text("aB09 ./\\:=,;%@[]\0\t\n\u2028\u00e9\u4e2d", max_size=60)
CAMERA = b"rtsp://user:secret@10.0.0.1:554/a?b#c"
LIMITS = Limits(max_entries=4, max_images=2, max_bytes=10_000, max_image_bytes=5_000)


def zipped(method):
    """Return an archive of a picture and of a text."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        file.writestr("a/one.png", picture())
        file.writestr("note.txt", "words " * 20)
    return made.getvalue()


def told(name):
    """Return the metadata of an upload of a file with that name."""
    return f"filename {base64.b64encode(name).decode()},is_private"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A file that is written again and again."""
    return tmp_path_factory.mktemp("foreign") / "file"


# what servers answer the gateway, and what clients send it


@FEW
@seeded("server-heads")
@given(damaged(ANSWER, of="server-heads"))
def test_heads_of_servers(data):
    """A head is read or malformed; no field of it can end a line of what a client is sent."""
    with contextlib.suppress(http1.MalformedError):
        for name, value in headers.response_headers(http1.read_head(data).fields):
            assert not {"\r", "\n", "\0"} & set(name + value)


@FEW
@seeded("server-chunks", step=3)
@given(damaged(CHUNKS, of="server-chunks"), st.integers(1, 40))
def test_chunks_of_servers(data, step):
    """The same comes of a body in chunks in whatever pieces it arrives, or it is malformed."""

    def read(size):
        chunks, found = http1.ChunkedDecoder(), []
        try:
            for at in range(0, len(data), size):
                found.append(chunks.feed(data[at : at + size]))
                if chunks.ended:
                    break
        except http1.MalformedError:
            return None
        return b"".join(found), chunks.ended

    assert read(step) == read(len(data) or 1)


@FEW
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=20))))
def test_fields_of_clients(fields):
    """Of what a client's fields become each line is one, and none says who asks but our own."""
    lines = headers.request_headers(fields, "ada", "10.0.0.1").split(b"\r\n")
    assert lines.pop() == b""
    assert lines[-2:] == [b"X-Consumer-Username: ada", b"X-Forwarded-For: 10.0.0.1"]
    assert not any(line.lower().startswith((b"x-consumer-", b"host:")) for line in lines[:-2])


@FEW
@seeded("gateway-messages", infer=True)
@given(
    damaged(
        b"\x0a\x04cats\x12\x011\x22\x13\x0a\x0bsequence_id\x12\x04\x1a\x02ab", of="gateway-messages"
    ),
    st.booleans(),
)
def test_messages_at_the_gateway(data, infer):
    """A message of gRPC, of which the name alone is read."""
    wanted = parsed(lambda: protobuf.requested_model(data, infer=infer))
    assert wanted is None or isinstance(wanted.model, str)


@FEW
@given(
    damaged(msgspec.json.encode(BODY), b'{"parameters":{"sequence_id":' + b"[" * 200),
    st.sampled_from([{}, {"Content-Encoding": "gzip"}, {headers.HEADER_LENGTH: "20"}]),
    st.integers(1, 80),
)
def test_steps_of_sequences(data, given_headers, cut):
    """A body is of a sequence or of none; what is wrong with it the server says."""

    async def seen():
        part = inspection.JsonPart(CIMultiDictProxy(CIMultiDict(given_headers)))
        pieces = (data[:cut], data[cut:])
        return b"".join([text for piece in pieces async for text in part.texts(piece)])

    text = parsed(lambda: asyncio.run(seen()))
    step = None if text is None else parsed(inspection.step_of, text)
    assert step is None or isinstance(step.sequence, int | str)


# models


@FEW
@seeded("configurations")
@given(damaged(CONFIG, of="configurations"))
def test_configurations(data):
    """A ``config.pbtxt`` is read, and then can be written."""
    found = parsed(pbtxt.read, data)
    if found is not None:
        assert pbtxt.read(pbtxt.write(found)) == found


@FEW
@given(TEXT)
def test_names_of_models_files(name):
    """A name is of a file below a version, or refused."""
    parts = parsed(layout.parts_of, name)
    assert parts is None or not {"", ".", ".."} & set(parts)


@FEW
@seeded("signatures")
@given(damaged(SIGNATURE, of="signatures"))
def test_signatures(place, data):
    """The inputs and outputs of an ONNX file."""
    place.write_bytes(data)
    found = parsed(onnx_signature.config_of, place, "cats")
    assert found is None or found["input"]


@FEW
@seeded("manifests")
@given(damaged(MANIFEST, b"a: &a [*a]\n", b"? [a]\n: b\n", of="manifests"))
def test_manifests(place, data):
    """A document of a fleet; whoever applies it is told what is wrong."""
    place.write_bytes(data)
    with contextlib.suppress(MataError):
        assert manifest.read(place) is not None


# uploads


@FEW
@given(st.one_of(TEXT, st.binary(max_size=40).map(told)))
def test_metadata_of_uploads(text):
    """``Upload-Metadata`` of tus gives a name that a database keeps and a page shows."""
    name = parsed(upload_routes._name, text)
    if name is not None:
        assert "\0" not in name
        assert len(name.encode()) <= 4 * 255


@FEW
@given(TEXT, st.sampled_from(["", "sha1 ", "sha256 ", "md5 "]))
def test_checksums_of_uploads(text, name):
    """``Upload-Checksum`` of tus."""
    found = parsed(upload_writer.digest_of, name + text)
    assert found is None or len(found[1]) in {20, 32}


@FEW
@seeded("archives")
@given(
    damaged(zipped(zipfile.ZIP_STORED), zipped(zipfile.ZIP_DEFLATED), of="archives"),
)
def test_archives(place, data):
    """What was inspected unpacks within the limits, or is told to be damaged."""
    place.write_bytes(data)
    entries = parsed(archive.inspect, place, LIMITS)
    if entries is not None:
        parsed(archive.verify_contents, place, entries)
        pictures = parsed(lambda: list(archive.pictures(place))) or []
        assert all(len(each) <= LIMITS.max_image_bytes for _, each in pictures)


@FEW
@seeded("exif")
@given(damaged(picture(form="JPEG", exif=exif.write(exif.Exif(focal_35=28.0))), of="exif"))
def test_exif(data):
    """What cannot be read of a photograph's EXIF tells nothing."""
    with warnings.catch_warnings(action="ignore"):  # as its callers have it
        found = exif.read(data)
    assert found.focal_35 >= 0
    assert found.camera.isprintable()


# who asks, and for what


@FEW
@seeded("log-ins")
@given(damaged(b"username=ada&password=correct+horse", b"username=%00&password=%ff", of="log-ins"))
def test_forms_of_log_ins(data):
    """A form of OAuth2's password grant."""
    found = parsed(login_routes._parse_form, data)
    assert found is None or isinstance(found.password, str)


@FEW
@seeded("tokens")
@given(damaged(Tokens("s" * 32, 60, lambda: 1.0).make("ada", 1).encode(), of="tokens"))
def test_tokens(data):
    """A token that was changed in any way is nobody's."""
    ours = Tokens("o" * 32, 60, lambda: 1.0)
    assert ours.read(data.decode("latin-1")) is None


@FEW
@given(st.one_of(TEXT, damaged(CAMERA).map(lambda data: data.decode("latin-1"))))
def test_addresses_of_cameras(text):
    """What is shown of an address has neither user nor password, path nor query."""
    found = parsed(source.parse, text)
    assert found is None or not {"@", "?"} & set(found.shown) or found.kind == "file"
