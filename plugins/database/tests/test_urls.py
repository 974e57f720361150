"""URLs of PostgreSQL, as its own clients take them and hosters give them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from mataserver import MataError
from mataserver_database import Busy, Database
from mataserver_database.failures import reason_of

LIMIT = "4s"
CERTIFICATE = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other"]
OWN, OTHER = "IP:127.0.0.1", "DNS:other"


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("postgresql://{at}?sslmode=disable", ""),
        ("postgres://{at}?sslmode=prefer&application_name=shelf", "shelf"),
        ("postgresql+asyncpg://{at}?options=-c%20application_name%3Dshelf", "shelf"),
        ("postgresql://mata@127.0.0.1:1,{host}?target_session_attrs=read-write", ""),
        ("postgresql://mata@127.0.0.1,{host}?ssl=disable&prepared_statement_cache_size=0", ""),
        ("postgresql://mata@127.0.0.1,127.0.0.1/postgres?port={port}", ""),
        ("postgresql://mata@/postgres?host=127.0.0.1:1&host={address}", ""),
        ("postgresql://mata@{folder}:{port}/postgres?application_name=shelf", "shelf"),
        ("postgresql://{at}?ssl=disable&prepared_statement_cache_size=0", ""),
        ("postgresql://{at}?timeout=5&command_timeout=60", ""),
        ("postgresql://{at}?connect_timeout=10&keepalives=1&keepalives_idle=30", ""),
        ("postgresql://{at}?channel_binding=prefer&gssencmode=disable", ""),
    ],
)
async def test_parameters_of_a_url(tmp_path, postgres, form, name):
    """They are those of PostgreSQL's clients, or SQLAlchemy's; our limits are in force."""
    at = postgres.removeprefix("postgresql://")
    host = at.partition("@")[2]
    address = host.partition("/")[0]
    port = address.partition(":")[2]
    folder = quote(await _socket_folder(postgres), safe="")
    url = form.format(at=at, host=host, address=address, port=port, folder=folder)
    database = Database(tmp_path, url, timeout=4.0)
    try:
        async with database.read() as connection:
            for setting, wanted in (
                ("application_name", name),
                ("lock_timeout", LIMIT),
                ("statement_timeout", LIMIT),
            ):
                assert await connection.scalar(sa.text(f"SHOW {setting}")) == wanted
    finally:
        await database.close()


async def test_a_home_that_cannot_be_read(tmp_path, postgres, monkeypatch):
    """No file of a connection without TLS is sought there."""
    monkeypatch.setenv("HOME", f"/{'a' * 5_000}")  # root may read any other
    at = postgres.rpartition("@")[2]
    database = Database(tmp_path, f"postgresql://mata:any@{at}?sslmode=disable", timeout=4.0)
    try:
        async with database.read() as connection:
            assert await connection.scalar(sa.text("SELECT 1")) == 1
    finally:
        await database.close()


async def _socket_folder(url):
    """Return the folder of a server's Unix socket."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SHOW unix_socket_directories")
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("{url}?sslmode=perhaps", "`sslmode` parameter must be one of: disable,"),
        ("{url}?channel_binding=require", "channel_binding=require: the driver cannot give it"),
        ("{url}?gssencmode=require", "gssencmode=require: the driver cannot give it"),
        ("{url}?sslrootcert=system&sslmode=require", "system needs sslmode=verify-full"),
        ("{url}?sslrootcert=system&ssl=disable", "system needs sslmode=verify-full"),
        ("{url}?sslrootcert=system&ssl_min_protocol_version=SSLv3", "no version of TLS: SSLv3"),
        ("{url}?options=x", "invalid command-line argument for server process: x"),
        ("{url}?work_mem=much", 'invalid value for parameter "work_mem"'),
        ("postgresql://mata:hunter2", "not a URL that PostgreSQL's clients read"),
    ],
)
async def test_a_url_that_is_none(tmp_path, postgres, form, told):
    """The setting is named with what is wrong, and no part of a password."""
    database = Database(tmp_path, form.format(url=postgres))
    try:
        with pytest.raises(MataError) as raised:
            await database.check()
    finally:
        await database.close()
    assert raised.value.detail.startswith("plugins.database.url: ")
    assert told in raised.value.detail
    assert "hunter2" not in raised.value.told


@pytest.fixture
async def untrusted(request, tmp_path):
    """The port of a server whose TLS has a certificate, of another name, and the certificate."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl here")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = f"subjectAltName={getattr(request, 'param', OTHER)}"
    made = [openssl, *CERTIFICATE, "-addext", name, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async def answer(reader, writer):
        await reader.readexactly(8)  # asks whether there is TLS
        writer.write(b"S")
        with contextlib.suppress(OSError):
            await writer.start_tls(tls)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        yield server.sockets[0].getsockname()[1], certificate


async def test_a_certificate_that_is_not_trusted(tmp_path, untrusted):
    """What TLS said is told, and it is the database's trouble: it may be over soon."""
    port, certificate = untrusted
    url = f"postgresql://mata@127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert={certificate}"
    database = Database(tmp_path, url)
    with pytest.raises(Busy) as raised:
        await database.check()
    await database.close()
    assert "certificate verify failed" in reason_of(raised.value)


@pytest.mark.parametrize(
    ("parameters", "variables"),
    [
        ("sslrootcert=system", {}),
        ("sslrootcert=system&sslmode=verify-full", {}),
        ("ssl=verify-full&sslrootcert=system", {"PGSSLMODE": "disable"}),
        ("", {"PGSSLROOTCERT": "system"}),
        ("", {"PGSSLROOTCERT": "system", "PGSSLMODE": "verify-full"}),
    ],
)
async def test_the_certificates_of_the_system(
    tmp_path, untrusted, parameters, variables, monkeypatch
):
    """``system`` is no file: one that the system does not trust is refused, and a host's name."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    port, certificate = untrusted
    url = f"postgresql://mata@127.0.0.1:{port}/x?{parameters}"
    for known, told in ((False, "self.signed certificate"), (True, "Hostname|IP address mismatch")):
        if known:
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        database = Database(tmp_path, url)
        with pytest.raises(Busy) as raised:
            await database.check()
        await database.close()
        assert re.search(told, reason_of(raised.value))


@pytest.mark.parametrize("name", ["sslcert", "sslcrl"])
@pytest.mark.parametrize("where", ["url", "environment"])
async def test_files_beside_the_certificates_of_the_system(tmp_path, name, where, monkeypatch):
    """The client's certificate, and the list of revoked ones, are named when they are not there."""
    url = "postgresql://mata@127.0.0.1:1/x?sslrootcert=system"
    if where == "url":
        url += f"&{name}=/nowhere/it.pem"
    else:
        monkeypatch.setenv(f"PG{name.upper()}", "/nowhere/it.pem")
    assert (await _refused(tmp_path, url)).endswith("No such file or directory: '/nowhere/it.pem'")


@pytest.mark.parametrize(
    ("untrusted", "parameters", "told"),
    [
        (OWN, "sslcrl={certificate}", "unable to get certificate CRL"),
        (OTHER, "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "PROTOCOL"),
        (OTHER, "sslcert={certificate}&sslkey={key}&sslpassword=secret", "mismatch"),
        (OTHER, "sslcert={certificate}&sslkey={key}&sslpassword=wrong", "PEM lib"),
        (OTHER, "sslcert={certificate}&sslkey={key}", "PEM lib"),
    ],
    indirect=["untrusted"],
)
async def test_parameters_beside_the_certificates_of_the_system(
    tmp_path, untrusted, monkeypatch, parameters, told
):
    """They count as beside a file; a key's password is never asked for on the terminal."""
    port, certificate = untrusted
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    key = tmp_path / "locked.pem"
    locking = ["pkey", "-in", str(tmp_path / "key.pem"), "-aes256", "-passout", "pass:secret"]
    subprocess.run([shutil.which("openssl"), *locking, "-out", str(key)], check=True)
    url = f"postgresql://mata@127.0.0.1:{port}/x?sslrootcert=system&{parameters}"
    said = await _refused(tmp_path, url.format(certificate=certificate, key=key))
    assert told in said


async def _refused(folder, url):
    """Return why a database cannot be reached for now."""
    database = Database(folder, url)
    with pytest.raises(Busy) as raised:
        await database.check()
    await database.close()
    return reason_of(raised.value)


async def test_a_file_that_is_not_there(tmp_path):
    """The file of a URL is named."""
    url = "postgresql://mata@127.0.0.1:1/x?sslmode=verify-full&sslrootcert=/nowhere/root.pem"
    database = Database(tmp_path, url)
    with pytest.raises(Busy) as raised:
        await database.check()
    await database.close()
    assert reason_of(raised.value).endswith("No such file or directory: '/nowhere/root.pem'")


async def test_what_a_connection_begins_with(tmp_path):
    """Only with what every proxy takes: PgBouncer refuses limits of statements there."""
    packets = []

    async def refuse(reader, writer):
        packets.append(await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4))
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        database = Database(tmp_path, f"postgresql://mata@127.0.0.1:{port}/x?sslmode=disable")
        with pytest.raises(Busy):
            await database.check()
        await database.close()
    names = packets[0][4:].rstrip(b"\0").split(b"\0")[::2]
    assert sorted(names) == [b"client_encoding", b"database", b"user"]
