"""Archives from strangers: every bad one is refused by the name of its entry."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib

import pytest

from mataserver import BadRequest
from mataserver_jobs import directory
from mataserver_reconstruct import archive
from mataserver_reconstruct.spec import Limits
from understated_archive import STATED, understated, within

PICTURE = b"\xff\xd8" + bytes(range(256)) * 8


def packed(entries, method=zipfile.ZIP_DEFLATED):
    """Return an archive's bytes; entries are names or ``ZipInfo`` with their bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data, method)
    return out.getvalue()


def written_by(*names, beside=None):
    """Return an archive as old programs write it: names as given bytes, not marked as UTF-8.

    ``beside`` are bytes that stand in an Info-ZIP Unicode Path field beside each of the names.
    """
    out, index, extra = b"", b"", b""
    for name in names:
        sizes = struct.pack("<IIIHH", zlib.crc32(PICTURE), len(PICTURE), len(PICTURE), len(name), 0)
        begin = len(out)
        out += struct.pack("<4sHHHHH", b"PK\3\4", 20, 0, 0, 0, 33) + sizes + name + PICTURE
        if beside is not None:
            extra = struct.pack("<HHBI", 0x7075, 5 + len(beside), 1, zlib.crc32(name)) + beside
        index += struct.pack("<4sHHHHHH", b"PK\1\2", 20, 20, 0, 0, 0, 33)
        index += sizes[:-2] + struct.pack("<H", len(extra))
        index += struct.pack("<HHHII", 0, 0, 0, 0, begin) + name + extra
    count = len(names)
    return (
        out
        + index
        + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(index), len(out), 0)
    )


def linked(mode):
    """Return an entry of a kind of file."""
    entry = zipfile.ZipInfo("photos/odd.jpg")
    entry.external_attr = mode << 16
    return [(entry, b"/etc/passwd")]


def patched(data, where, value, offset, after=b"PK\x01\x02"):
    """Change a field of the first record that begins with a signature."""
    at = data.index(after) + offset
    return data[:at] + struct.pack(where, value) + data[at + struct.calcsize(where) :]


def flagged(bit):
    """Return an archive whose entry has a bit of its flags set."""
    data = packed([("a.jpg", PICTURE)])
    return patched(patched(data, "<H", bit, 8), "<H", bit, 6, b"PK\x03\x04")


def method(number):
    """Return an archive whose entry is packed by another method."""
    data = packed([("a.jpg", PICTURE)])
    return patched(patched(data, "<H", number, 10), "<H", number, 8, b"PK\x03\x04")


def renamed(before, after):
    """Return an archive with a name that ``zipfile`` itself would not write."""
    return packed([(before, PICTURE)]).replace(before.encode(), after)


def overlapping():
    """Return an archive whose two entries are the same bytes of it."""
    data = packed([("aa.jpg", bytes(40_000)), ("bb.jpg", b"x")], zipfile.ZIP_STORED)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        start = file.start_dir
    second = data.index(b"PK\x01\x02", start + 4)
    for offset, value in ((16, None), (20, 40_000), (24, 40_000), (42, 0)):
        if value is not None:
            at = second + offset
            data = data[:at] + struct.pack("<I", value) + data[at + 4 :]
    return data


NAMES = {
    "../a.jpg": "leads out",
    "photos/../../a.jpg": "leads out",
    "..\\a.jpg": "leads out",
    "photos\\..\\..\\a.jpg": "leads out",
    "/etc/a.jpg": "absolute",
    "\\server\\a.jpg": "absolute",
    "C:\\a.jpg": "absolute",
    "c:a.jpg": "absolute",
    "a\nb.jpg": "control",
    "a\x1b[31m.jpg": "control",
    "a\x7f.jpg": "control",
    "a" * 1001 + ".jpg": "too long",
    "inner.zip": "archive itself",
    "photos/inner.ZIP": "archive itself",
    "inner.tar": "archive itself",
    "inner.tar.gz": "archive itself",
    "inner.tgz": "archive itself",
    "inner.7z": "archive itself",
    "inner.rar": "archive itself",
    "inner.bz2": "archive itself",
    "inner.xz": "archive itself",
    "inner.zst": "archive itself",
}
KINDS = {
    "link": stat.S_IFLNK,
    "pipe": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "block": stat.S_IFBLK,
    "character": stat.S_IFCHR,
}
WHOLE = packed([("a.jpg", PICTURE), ("b.jpg", PICTURE)])
BAD = {
    **{f"name {name[:30]!r}": (packed([(name, PICTURE)]), why) for name, why in NAMES.items()},
    **{name: (packed(linked(mode | 0o644)), "link or a device") for name, mode in KINDS.items()},
    "nul in a name": (renamed("aXb.jpg", b"a\0b.jpg"), "control"),
    "encrypted": (flagged(0x1), "encrypted"),
    "strongly encrypted": (flagged(0x41), "encrypted"),
    "deflate64": (method(9), "not supported"),
    "bzip2": (packed([("a.jpg", PICTURE)], zipfile.ZIP_BZIP2), "not supported"),
    "lzma": (packed([("a.jpg", PICTURE)], zipfile.ZIP_LZMA), "not supported"),
    "aes": (method(99), "not supported"),
    "zstandard": (method(93), "not supported"),
    "ppmd": (method(98), "not supported"),
    "bomb": (packed([("a.bmp", bytes(3_000_000))]), "times its size"),
    "bomb that is no picture": (packed([("a.txt", bytes(3_000_000))]), "times its size"),
    "two of one name": (None, "twice"),
    "overlapping": (overlapping(), "overlaps"),
    "claims to be huge": (patched(WHOLE, "<I", 0xFFFFFFF0, 24), "4294967280 bytes"),
    "empty": (b"", "no bytes"),
    "text": (b"hello", "not a ZIP"),
    "a picture": (PICTURE, "not a ZIP"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(60), "not a ZIP"),
    "rar": (b"Rar!\x1a\x07\0" + bytes(60), "not a ZIP"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(60), "not a ZIP"),
    "tar": (b"a.jpg" + bytes(1019), "not a ZIP"),
    "cut at the end": (WHOLE[:-10], "not a ZIP"),
    "cut in its middle": (WHOLE[: len(WHOLE) // 2], "not a ZIP"),
    "begin cut off": (WHOLE[40:], "damaged"),
    "directory overwritten": (patched(WHOLE, "<I", 0, 0), "not a ZIP"),
    "local header gone": (patched(WHOLE, "<I", 0, 0, b"PK\x03\x04"), "damaged"),
    "wrong checksum": (patched(WHOLE, "<I", 1, 16), "damaged"),
    "broken data": (WHOLE[:40] + b"\xff" * 20 + WHOLE[60:], "damaged"),
    "another name inside": (WHOLE.replace(b"a.jpg", b"c.jpg", 1), "damaged"),
    "offset beyond the end": (patched(WHOLE, "<I", 0x7FFFFFFF, 42), "damaged"),
}


@pytest.mark.parametrize("number", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_how_what_is_no_photograph_is_packed(number, tmp_path):
    """Only photographs are unpacked: folders and other files may be packed by any method."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for name in ("a/", "a/notes.txt", "a/.DS_Store"):
            made.writestr(name, b"x" * (not name.endswith("/")), number)
        made.writestr("a/b.jpg", PICTURE)
    assert unpack(tmp_path / "a.zip") == [("a/b.jpg", PICTURE)]


def unpack(file):
    """Inspect an archive and read what is in it."""
    archive.inspect(file, Limits())
    return list(archive.pictures(file))


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile's, of what we make
def test_a_bad_archive_is_refused(kind, tmp_path):
    """Whatever is wrong with it, an archive is refused with 400 and the reason."""
    data, why = BAD[kind]
    if data is None:
        data = packed([("a.jpg", PICTURE), ("a.jpg", PICTURE)])
    file = tmp_path / "photos.zip"
    file.write_bytes(data)
    with pytest.raises(BadRequest, match=why) as refusal:
        unpack(file)
    assert refusal.value.status == 400
    assert refusal.value.detail.isprintable()


def test_no_more_is_unpacked_than_an_entry_says(tmp_path):
    """What unpacks to far more takes no memory for it, as it is inspected and as it is read."""
    file = tmp_path / "photos.zip"
    file.write_bytes(understated())
    with within(5_000_000):
        archive.verify_contents(file, archive.inspect(file, Limits()))
        assert unpack(file) == [("a.jpg", bytes(STATED))]


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(max_entries=2), "over 2 entries"),
        (Limits(max_images=1), "'b.jpg' is one photograph too many"),
        (Limits(max_bytes=3_000), "'b.jpg' brings the archive"),
        (Limits(max_image_bytes=100), "'a.jpg' has 2050 bytes"),
    ],
)
def test_limits_name_the_entry(limits, why, tmp_path):
    """What goes over a limit is told by the entry that does."""
    file = tmp_path / "photos.zip"
    file.write_bytes(packed([("a.jpg", PICTURE), ("b.jpg", PICTURE), ("c.txt", b"")]))
    with pytest.raises(BadRequest, match=why):
        archive.inspect(file, limits)


def test_photographs_are_told_from_the_rest(tmp_path):
    """Folders, notes and what systems leave in an archive are no photographs, and no harm."""
    entries = [(name, PICTURE) for name in ("x/a.jpg", "x/b.JPEG", "é.tiff", "x/d.heic")]
    entries += [("x/", b""), ("notes.txt", b"hi"), ("__MACOSX/x/._a.jpg", b""), (".DS_Store", b"")]
    file = tmp_path / "photos.zip"
    file.write_bytes(packed([*entries, ("x/.hidden.jpg", b"")]))
    found = [entry.filename for entry in archive.inspect(file, Limits())]
    assert found == ["x/a.jpg", "x/b.JPEG", "é.tiff", "x/d.heic"]
    assert list(archive.pictures(file)) == [(name, PICTURE) for name in found]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("größe.jpg".encode(), "größe.jpg"),  # macOS
        ("größe.jpg".encode("cp437"), "größe.jpg"),
        (b"photos\\north\\a.jpg", "photos/north/a.jpg"),  # .NET before 4.6.1
    ],
)
def test_names_are_told_as_they_were_meant(tmp_path, name, told):
    file = tmp_path / "photos.zip"
    file.write_bytes(written_by(name, b"photos\\__MACOSX\\._a.jpg", b"photos\\.hidden.jpg"))
    found = archive.inspect(file, Limits())
    assert [entry.filename for entry in found] == [told]
    archive.verify_contents(file, found)
    assert list(archive.pictures(file)) == [(told, PICTURE)]


def test_a_name_beside_the_entrys_own_is_told(tmp_path):
    """Info-ZIP and 7-Zip write it where the code page has no such letters."""
    file = tmp_path / "photos.zip"
    file.write_bytes(written_by(b"gr__e.jpg", beside="größe.jpg".encode()))
    found = archive.inspect(file, Limits())
    assert [entry.filename for entry in found] == ["größe.jpg"]
    archive.verify_contents(file, found)
    assert list(archive.pictures(file)) == [("größe.jpg", PICTURE)]
    changed = file.read_bytes().replace(b"gr__e", b"gr--e")  # which it does not stand for
    file.write_bytes(changed)
    assert [entry.filename for entry in archive.inspect(file, Limits())] == ["gr--e.jpg"]


@pytest.mark.parametrize(
    ("beside", "why"),
    [
        (b"../a.jpg", "leads out"),
        (b"/a.jpg", "absolute"),
        (b"C:\\a.jpg", "absolute"),
        (b"a\nb.jpg", "control characters"),
        (b"a.jpg\0.txt", "control characters"),
        (b"a" * 1_001 + b".jpg", "too long"),
        (b"a.zip", "an archive itself"),
    ],
)
def test_a_name_beside_the_entrys_own_is_checked_too(tmp_path, beside, why):
    file = tmp_path / "photos.zip"
    file.write_bytes(written_by(b"a.jpg", beside=beside))
    with pytest.raises(BadRequest, match=why):
        archive.inspect(file, Limits())


def test_a_name_is_not_given_twice_by_other_means(tmp_path):
    file = tmp_path / "photos.zip"
    file.write_bytes(written_by(b"photos\\a.jpg", b"photos/a.jpg"))
    with pytest.raises(BadRequest, match="twice"):
        archive.inspect(file, Limits())


@pytest.mark.parametrize("number", [3, 66_000])  # the second has a directory of 64 bits
def test_entries_are_counted_before_they_are_read(tmp_path, number):
    """By the directory as it lies there, whatever the record at the end says of their number."""
    file = tmp_path / "many.zip"
    file.write_bytes(packed([(f"{at}.jpg", b"") for at in range(number)], zipfile.ZIP_STORED))
    assert directory.has_more_than(file, number - 1)
    assert not directory.has_more_than(file, number)
    data = bytearray(file.read_bytes())
    end = data.rfind(b"PK\5\6")
    data[end + 8 : end + 12] = bytes(4)  # it says that there are none
    file.write_bytes(data)
    assert directory.has_more_than(file, number - 1)


@pytest.mark.parametrize("size", [16, 4_096, 4_100, 65_532])
def test_extra_fields_are_counted_before_they_are_read(tmp_path, size):
    """Each empty one has all behind it copied: 2 MB of them took two seconds."""
    entry = zipfile.ZipInfo("a.jpg")
    entry.extra = struct.pack("<HH", 0x9999, 0) * (size // 4)
    file = tmp_path / "fields.zip"
    file.write_bytes(packed([(entry, PICTURE)]))
    assert directory.longest_extra(file) == size
    if size <= 4_096:
        assert len(archive.inspect(file, Limits())) == 1
        return
    with pytest.raises(BadRequest, match="over 4096 bytes of extra fields"):
        archive.inspect(file, Limits())


@pytest.mark.parametrize("data", [b"", b"PK\5\6", bytes(100), b"PK\5\6" + b"\xff" * 18])
def test_what_has_no_directory_has_no_entries(tmp_path, data):
    """It is for whoever opens it to refuse."""
    file = tmp_path / "none.zip"
    file.write_bytes(data)
    assert not directory.has_more_than(file, 0)
