"""Models on this machine: configuration and size."""

from __future__ import annotations

import pytest

from mataserver.errors import BadRequest
from mataserver.sources.local import MAX_CONFIG_BYTES, edition_of, read_config, size_of


def test_config_of_a_directory(tmp_path):
    """config.json is decoded as Python writes it."""
    (tmp_path / "config.json").write_text('{"model_type": "vit", "limit": Infinity}')
    assert read_config(tmp_path) == {"model_type": "vit", "limit": float("inf")}


def test_no_config_is_an_empty_one(tmp_path):
    """A single file, and a directory without config.json, have no configuration."""
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x")
    assert read_config(file) == read_config(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff\xfe\xfa", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[1]", "is not a JSON object"),
        (b" " * (MAX_CONFIG_BYTES + 1), "is too large"),
    ],
)
def test_bad_config_is_a_bad_request(tmp_path, content, reason):
    """Whatever else is in config.json is told without its path."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(BadRequest) as caught:
        read_config(tmp_path)
    assert caught.value.detail == f"the model's config.json {reason}"


def test_path_that_is_gone_is_a_bad_request(tmp_path):
    """A model that has been moved away is told without its path."""
    with pytest.raises(BadRequest) as caught:
        read_config(tmp_path / "gone")
    assert caught.value.detail == "the model's files cannot be read: No such file or directory"


def test_size_of_files_and_directories(tmp_path):
    """A directory's size is that of all files below it, through links; a dead link has none."""
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dead").symlink_to("gone")
    assert size_of(tmp_path / "a") == 3
    assert size_of(tmp_path) == 3 + 5 + 3
    assert size_of(tmp_path / "gone") is None


def test_other_files_at_a_place_are_another_edition(tmp_path):
    """A file that is written, comes or goes makes another one; of a single file, what lies beside.

    Looking at them again does not, and neither does a link to nothing.
    """
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "labels").write_text("cat")
    weights = tmp_path / "weights"
    weights.write_bytes(b"old")
    (tmp_path / "dead").symlink_to("gone")
    for path in (tmp_path, weights):
        weights.write_bytes(b"old")
        first = edition_of(path)
        assert edition_of(path) == first
        weights.write_bytes(b"newer")
        second = edition_of(path)
        (tmp_path / "more").touch()
        third = edition_of(path)
        assert len({first, second, third}) == 3
        (tmp_path / "more").unlink()
    whole = edition_of(tmp_path)
    (tmp_path / "sub" / "labels").write_text("dogs")
    assert edition_of(tmp_path) != whole
    assert edition_of(tmp_path / "gone" / "model.onnx") == edition_of(tmp_path / "gone" / "other")
