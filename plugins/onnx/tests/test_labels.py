"""Names of classes: where they come from, and when their number is wrong."""

from __future__ import annotations

import tracemalloc

import pytest

from mataserver import MataError
from mataserver_onnx import labels
from mataserver_onnx.graph import Graph

PLAIN = Graph((), ())
NOTED = Graph((), (), {"names": "{0: 'cat', 1: 'dog'}"})


def test_a_class_without_a_name_is_called_by_its_number():
    """Nothing says the names: the numbers do."""
    found = labels.find(PLAIN, {}, None)
    found.check(1000)
    assert found[7] == "LABEL_7"


@pytest.mark.parametrize(
    ("graph", "config", "expected"),
    [
        (NOTED, {"id2label": {"0": "x", "1": "y"}}, ["cat", "dog"]),
        (PLAIN, {"id2label": {"0": "x", "1": "y"}}, ["x", "y"]),
        (Graph((), (), {"names": "['cat', 'dog']"}), {}, ["cat", "dog"]),
        (Graph((), (), {"names": '["\\ud83d\\ude00", "\\ud83d"]'}), {}, ["\U0001f600", "\ufffd"]),
        (Graph((), (), {"names": "__import__('os')"}), {"id2label": {"0": "x"}}, ["x", "LABEL_1"]),
        (Graph((), (), {"names": "{0: "}), {}, ["LABEL_0", "LABEL_1"]),
        (PLAIN, {"label_names": ["x", "y"]}, ["x", "y"]),
        (PLAIN, {"id2label": ["x"]}, ["x", "LABEL_1"]),
        (PLAIN, {"id2label": {"a": "x"}}, ["LABEL_0", "LABEL_1"]),
    ],
)
def test_the_networks_own_names_come_first(graph, config, expected):
    """Metadata before configuration; neither is run as code, and nonsense counts as nothing."""
    found = labels.find(graph, config, None)
    assert [found[0], found[1]] == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "cat\n\n dog \n"),
        ("a.json", '["cat", "dog"]'),
        ("a.json", '{"0": "cat", "1": "dog"}'),
        ("a.json", '{"id2label": {"1": "dog", "0": "cat"}}'),
    ],
)
def test_a_file_counts_before_all(name, content, tmp_path):
    """One name a line, a JSON list, numbers with names, or a whole config.json."""
    (tmp_path / name).write_text(content)
    found = labels.find(NOTED, {}, tmp_path / name)
    found.check(2)
    assert [found[0], found[1]] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b'"cat"', "must hold a list"),
        ("a.json", b'{"-1": "cat"}', "must hold a list"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("missing.txt", None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(name, content, said, tmp_path):
    """The reason is in the sentence, the path is not."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MataError, match=said) as caught:
        labels.find(PLAIN, {}, tmp_path / name)
    assert str(tmp_path) not in caught.value.detail


def test_names_without_end_are_not_read():
    """A megabyte of them took seconds and 300 MB; those of 20,000 classes are read."""
    many = Graph((), (), {"names": str(dict.fromkeys(range(20_000), "a class of ImageNet"))})
    assert len(labels.from_metadata(many)) == 20_000
    endless = Graph((), (), {"names": str(dict.fromkeys(range(60_000), "a class of ImageNet"))})
    assert labels.are_unreadable(endless)
    commas = Graph((), (), {"names": ",".join(["a"] * 600_000)})
    assert len(labels.find(commas, {}, None, 600_000)) == 0


@pytest.mark.parametrize(
    "names",
    [
        "[" + "{1}," * 200_000 + "]",
        "[" + "1," * 400_000 + "]",
        "[" + "-1," * 40_000 + "]",
        "[f'{[" + "[]," * 200_000 + "]}']",
        "['''a' '''," + "{1}," * 200_000 + "]#'",
    ],
    ids=["nested", "many", "signs", "f-string", "three quotes"],
)
def test_names_that_would_take_much_are_not_parsed(names):
    """Of a megabyte 60 were kept for each of 16 files, and all waited for seconds."""
    tracemalloc.start()
    try:
        assert labels.are_unreadable(Graph((), (), {"names": names}))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_names_with_signs_in_them_are_read():
    """Brackets, quotes, commas and signs within a name are no values."""
    names = ["a [b] (c), {d}: -1", "it's", 'say "no"', "both ' and \"", "back\\slash", "'''", ""]
    for written in (names, tuple(names), dict(enumerate(names))):
        found = labels.from_metadata(Graph((), (), {"names": str(written)}))
        assert list(found.values()) == names
    assert labels.from_metadata(Graph((), (), {"names": "{}"})) == {}


@pytest.mark.parametrize("names", ["cat,dog", "cat, dog", "cat;dog", "cat\ndog\n"])
def test_names_without_quotes_are_read_where_their_number_is_right(names):
    """Some write them as text: read only if there is one per class, for they may hold commas."""
    graph = Graph((), (), {"names": names})
    found = labels.find(graph, {}, None, 2)
    assert [found[0], found[1]] == ["cat", "dog"]
    assert labels.are_unreadable(graph)
    assert [len(labels.find(graph, {}, None, count)) for count in (None, 1, 3)] == [0, 0, 0]


@pytest.mark.parametrize("names", ['{"cat": 0, "dog": 1}', "cat: 0, dog: 1", "['cat', 'dog'"])
def test_another_notation_is_not_taken_for_names(names):
    """What is not understood is no name: it is told when the model is loaded."""
    graph = Graph((), (), {"names": names})
    assert len(labels.find(graph, {}, None, 2)) == 0
    assert labels.are_unreadable(graph)
    assert not labels.are_unreadable(NOTED)
    assert not labels.are_unreadable(PLAIN)


@pytest.mark.parametrize(("name", "content"), [("a.txt", "cat\ndog"), ("a.json", '["cat", "dog"]')])
def test_the_mark_of_a_windows_editor_is_no_part_of_a_name(name, content, tmp_path):
    """A file saved as "UTF-8 with BOM" begins with a character that nobody sees."""
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    found = labels.find(PLAIN, {}, tmp_path / name)
    assert [found[0], found[1]] == ["cat", "dog"]


def test_a_wrong_number_of_labels_is_an_error():
    """Every class has a name or none has; numbers may be left out in between."""
    found = labels.Labels({0: "cat", 2: "dog"})
    found.check(3)
    with pytest.raises(MataError, match="has 4 classes, but 2 labels are given"):
        found.check(4)


def test_labels_of_other_numbers_are_an_error():
    """Names that begin with 1, or leave a number out, would be told of other classes."""
    for names in ({1: "cat", 2: "dog"}, {0: "cat", 2: "dog"}):
        with pytest.raises(MataError, match=f"classes 0 to 1, .* numbered {min(names)} to 2"):
            labels.Labels(names).check(2)
    background_first = labels.Labels({1: "cat", 2: "dog"})
    background_first.check(3)
    assert [background_first[index] for index in range(3)] == ["LABEL_0", "cat", "dog"]


def test_a_spare_class_stands_behind_the_others():
    """One without a name may be the last, and no more than that."""
    found = labels.Labels({0: "cat", 1: "dog"})
    found.check(2, spare=1)
    found.check(3, spare=1)
    with pytest.raises(MataError, match="has 4 classes"):
        found.check(4, spare=1)


def test_all_names():
    """A detector states what it may find: the named classes and one more; nothing without names."""
    assert labels.Labels({0: "dog", 2: "cat"}).all() == ["dog", "LABEL_1", "cat", "LABEL_3"]
    assert labels.Labels({}).all() is None
