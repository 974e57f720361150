"""Where a camera is: what of it is shown, who may name it, and a reader that is none."""

from __future__ import annotations

import pytest

from mataserver import ConfigError, InvalidParams
from mataserver_cameras import source as sources
from mataserver_cameras.messages import OpenRequest
from mataserver_cameras.reader_process import ReaderProcess, SourceLost


async def test_a_reader_that_says_nonsense():
    """A child that breaks its protocol, or is no reader, counts as dead."""
    link = await ReaderProcess.start(OpenRequest("/a.mp4", "file", 5.0, 1_000_000), reader=["cat"])
    with pytest.raises(SourceLost, match="its reader died"):
        await link.frame()
    await link.close()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@10.0.0.7:554/secret?password=secret", "rtsp://10.0.0.7:554"),
        ("rtsps://us%40er:sec@ret@cam.local/", "rtsps://cam.local"),
        ("http://[fe80::1]:8080/video.mjpg", "http://[fe80::1]:8080"),
        ("/srv/secret/shelf.mp4", "shelf.mp4"),
        ("/dev//video0", "/dev/video0"),
    ],
)
def test_what_is_shown_of_a_source(address, shown):
    """User, password, path and query stay hidden, also in a repr."""
    source = sources.parse(address)
    assert source.shown == shown
    assert "secret" not in repr(source)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("rtsp://10.0.0.7/", True),
        ("rtsp://10.0.1.7/", False),
        ("rtsp://CAM.local/", True),
        ("rtsp://cam.local.evil.example/", False),
        ("rtsp://[fd00::7]/", True),
        ("rtsp://[::ffff:10.0.0.7]/", False),
        ("rtsp://192.168.1.9/", True),
        ("/srv/a.mp4", True),
        ("/srv2/a.mp4", False),
        ("/dev/video1", True),
        ("/dev/video2", False),
    ],
)
def test_what_clients_may_name(address, allowed):
    """Names are compared as such, addresses with the networks, paths with what is above them."""
    hosts = ["10.0.0.0/24", "cam.local", "fd00::/8", "192.168.1.9"]
    rules = sources.AllowedSources(hosts, ["/srv", "/dev/video1"])
    if allowed:
        rules.check(sources.parse(address))
    else:
        with pytest.raises(InvalidParams):
            rules.check(sources.parse(address))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("rtsp://127.0.0.1/x", "this host is not one of camera_hosts"),
        ("rtsp://localhost/x", "this host is not one of camera_hosts"),
        ("http://2130706433/x", "this host is not one of camera_hosts"),
        ("rtsp://10.0.0.7@169.254.169.254/x", "this host is not one of camera_hosts"),
        ("rtsp://evil\\@10.0.0.7/x", "not a valid URL"),
        ("rtsp://10.0.0.7#@169.254.169.254/", "not a valid URL"),
        ("rtsp://10.0.0.7:99999/", "not a valid URL"),
        ("rtsp://user:pass#word@10.0.0.7/x", "write # as %23"),
        ("rtsp://user:pass/word@10.0.0.7/x", "write # as %23, / as %2F"),
        ("rtsp://[::1/", "not a valid URL"),
        ("rtsp:///x", "not a valid URL"),
        ("/etc/passwd", "this path is not under one of camera_paths"),
        ("/srv/videos/../../etc/passwd", "this path is not under one of camera_paths"),
        ("/srv/videos-private/a.mp4", "this path is not under one of camera_paths"),
        ("/dev/video0", "this path is not under one of camera_paths"),
        ("/dev/mem", "devices that are read are /dev/videoN"),
        ("/dev//mem", "devices that are read are /dev/videoN"),
        ("file:///etc/passwd", "expected rtsp://"),
        ("concat:/etc/passwd", "expected rtsp://"),
        ("udp://10.0.0.7:1", "expected rtsp://"),
        ("shelf.mp4", "expected rtsp://"),
        ("rtsp://10.0.0.7/\n", "printable"),
    ],
)
def test_addresses_that_are_refused(address, said):
    """Hosts in disguise, paths that climb, other schemes: told apart, and never repeated."""
    rules = sources.AllowedSources(["10.0.0.0/24"], ["/srv/videos"])
    with pytest.raises(InvalidParams) as caught:
        rules.check(sources.parse(address))
    assert said in caught.value.detail
    assert "passwd" not in caught.value.detail


def test_a_network_that_is_none():
    """A network that cannot be read is named by its place."""
    with pytest.raises(ConfigError, match=r"camera_hosts\[1\]"):
        sources.AllowedSources(["10.0.0.7", "10.0.0.0/33"], [])
