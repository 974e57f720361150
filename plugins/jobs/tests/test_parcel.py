"""Files of a job on their way: what does not come whole and sound is no result."""

from __future__ import annotations

import asyncio
import os

import pytest

from mataserver_jobs import file_transfer
from mataserver_jobs.file_transfer import (
    PIECE,
    NextPiece,
    Parcel,
    ParcelFile,
    Piece,
    TransferError,
)
from mataserver_jobs.returned_files import ReturnedFiles, sweep

SIZE = PIECE + 10


@pytest.fixture
def made(tmp_path):
    """A folder with a file of two pieces, an empty one, and a link, which is left out."""
    folder = tmp_path / "made"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "large").write_bytes(os.urandom(SIZE))
    (folder / "empty").touch()
    (folder / "link").symlink_to("/etc/passwd")
    return folder


class Script:
    """A process that has sent all its bytes, and is answered."""

    def __init__(self, data):
        self.output = asyncio.StreamReader(limit=8 * PIECE)
        self.output.feed_data(data)
        self.output.feed_eof()
        self.answers = []

    async def send(self, message):
        """Take an answer."""
        self.answers.append(message)


async def arrived(folder, sent, pieces):
    """Have a parcel arrive; return the arrival and the process."""
    folder.mkdir(exist_ok=True)
    returned_files, process = ReturnedFiles(folder), Script(b"".join(pieces))
    await returned_files.take(sent, process)
    for piece in pieces:
        await returned_files.take(Piece(len(piece)), process)
    return returned_files, process


async def test_what_was_packed_arrives(made, tmp_path):
    """Every file, in the place of what an attempt before it has left."""
    sent = file_transfer.describe_files(made)
    assert [(file.name, file.size) for file in sent.files] == [("a/large", SIZE), ("empty", 0)]
    pieces = list(file_transfer.read_pieces(made, sent))
    assert list(map(len, pieces)) == [PIECE, 10]
    job = tmp_path / "job"
    (job / "output").mkdir(parents=True)
    (job / "output" / "old").touch()
    (job / "arriving-left").mkdir()
    sweep(job)
    returned_files, process = await arrived(job, sent, pieces)
    assert process.answers == [NextPiece(), NextPiece()]
    returned_files.replace_output()
    assert file_transfer.describe_files(job / "output") == sent
    assert [path.name for path in job.iterdir()] == ["output"]


async def test_a_stale_attempt_leaves_its_successor_alone(made, tmp_path):
    """One whose claim counts no more begins while the next one's files come: neither is harmed."""
    sent = file_transfer.describe_files(made)
    first, last = file_transfer.read_pieces(made, sent)
    job = tmp_path / "job"
    successor, process = await arrived(job, sent, [first])
    stale, _ = await arrived(job, sent, [first])
    stale.discard()
    process.output = asyncio.StreamReader()
    process.output.feed_data(last)
    await successor.take(Piece(len(last)), process)
    successor.replace_output()
    assert file_transfer.describe_files(job / "output") == sent
    assert [path.name for path in job.iterdir()] == ["output"]


async def test_nothing_is_a_result_too(tmp_path):
    """A job that made no file has an empty output."""
    returned_files, _ = await arrived(
        tmp_path / "job", file_transfer.describe_files(tmp_path / "none"), []
    )
    returned_files.replace_output()
    assert list((tmp_path / "job" / "output").iterdir()) == []


async def test_many_files_come_in_several_parcels(tmp_path):
    """A message has a largest length: what comes is told in parts, and is whole at the last."""
    whole = Parcel([ParcelFile(str(number), 0, EMPTY) for number in range(1_001)])
    first, *others = file_transfer.split_parcel(whole)
    assert [len(part.files) for part in (first, *others)] == [500, 500, 1]
    returned_files, process = await arrived(tmp_path / "job", first, [])
    for part in others:
        with pytest.raises(TransferError):
            returned_files.replace_output()
        await returned_files.take(part, process)
    returned_files.replace_output()
    assert len(list((tmp_path / "job" / "output").iterdir())) == 1_001


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of no bytes."""


@pytest.mark.parametrize("at", [0, SIZE - 1])
async def test_other_bytes_are_refused(made, tmp_path, at):
    """One bit is enough."""
    sent = file_transfer.describe_files(made)
    data = bytearray(b"".join(file_transfer.read_pieces(made, sent)))
    data[at] ^= 1
    with pytest.raises(TransferError, match="other bytes"):
        await arrived(tmp_path / "job", sent, [bytes(data[:PIECE]), bytes(data[PIECE:])])
    assert not (tmp_path / "job" / "output").exists()


async def test_a_part_is_no_result(made, tmp_path):
    """What was announced and did not come is missed at the end, and by what comes after it."""
    sent = file_transfer.describe_files(made)
    first, _ = file_transfer.read_pieces(made, sent)
    returned_files, process = await arrived(tmp_path / "job", sent, [first])
    with pytest.raises(TransferError):
        returned_files.replace_output()
    with pytest.raises(TransferError):
        await returned_files.take(Piece(11), process)
    with pytest.raises(TransferError):
        await returned_files.take(sent, process)


async def test_a_process_that_ends_in_a_piece(made, tmp_path):
    """Fewer bytes than a message says are none."""
    sent = file_transfer.describe_files(made)
    returned_files, process = await arrived(tmp_path / "job", sent, [])
    process.output = asyncio.StreamReader()
    process.output.feed_data(b"x")
    process.output.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await returned_files.take(Piece(PIECE), process)


async def test_a_piece_of_nothing(tmp_path):
    """Bytes that nobody announced are refused."""
    process = Script(b"x")
    with pytest.raises(TransferError):
        await ReturnedFiles(tmp_path).take(Piece(1), process)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out", "", "."])
async def test_no_name_leads_elsewhere(tmp_path, name):
    """A node writes below the job's folder and nowhere else."""
    with pytest.raises(TransferError, match="elsewhere"):
        await arrived(tmp_path / "job", Parcel([ParcelFile(name, 0, EMPTY)]), [])


async def test_no_file_comes_twice(tmp_path):
    """The second of one name would replace what was compared."""
    with pytest.raises(TransferError, match="twice"):
        await arrived(tmp_path / "job", Parcel([ParcelFile("a", 0, EMPTY)] * 2), [])


def test_a_file_that_becomes_shorter_is_not_sent(made):
    """It is told where it is read, and not by a hole."""
    sent = file_transfer.describe_files(made)
    (made / "a" / "large").write_bytes(b"short")
    with pytest.raises(TransferError, match="shorter"):
        list(file_transfer.read_pieces(made, sent))
