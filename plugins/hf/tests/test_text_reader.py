"""Recognisers that write text: in pieces, in batches, and each text to its own end."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from itertools import chain

import numpy as np
import pytest
import torch
from transformers import StoppingCriteria

from mataserver import ModelSpec, OcrResult, TextRegion, Usage
from mataserver_hf import got_ocr2, text_reader, trocr
from mataserver_hf.batch_generation import BatchGenerator
from mataserver_hf.got_ocr2 import GotOcr2Params
from mataserver_hf.trocr import TrOcrParams


def line(grey):
    """A picture of one grey, the only thing that the checkpoints look at."""
    return np.full((24, 96, 3), grey, np.uint8)


@pytest.fixture
def batched(checkpoint, context):
    """``batched(name, count)`` is a recogniser that reads so many pictures at once."""

    def load(name, count=4):
        backend = {"trocr": trocr, "got_ocr2": got_ocr2}[name].BACKEND
        spec = ModelSpec(f"tiny/{name}", "ocr", "hf", checkpoint(name))
        return backend.load(spec, context(threads=1, max_batch=count))

    return load


@pytest.fixture
def generator(batched):
    """``generator(is_end, max_batch)`` continues prompts of TrOCR."""
    reader = batched("trocr")

    def make(is_end=lambda _: False, count=4):
        return BatchGenerator(reader._reader._network, is_end, count, {})

    make.prompt = reader._prompt(line(40), TrOcrParams()).tensors
    return make


class Calls(list):
    """The number of texts of each batch."""

    def counting(self, run):
        """Return ``run``, which notes them."""

        def count(tensors, *args, **options):
            self.append(len(tensors["pixel_values"]))
            return run(tensors, *args, **options)

        return count


@pytest.fixture
def calls(generator, monkeypatch):
    """The batches of ``generator``."""
    network, found = generator()._network, Calls()
    monkeypatch.setattr(network, "run", found.counting(network.run))
    return found


@pytest.mark.parametrize("name", ["trocr", "got_ocr2"])
def test_the_pieces_are_the_text(name, batched, tiny_reading, picture):
    """The pieces of a stream add up to the text of its result, which ``predict`` returns too."""
    reader = batched(name)
    params = TrOcrParams(max_tokens=12) if name == "trocr" else GotOcr2Params(max_tokens=12)
    taught = [*tiny_reading.LINES] if name == "trocr" else [tiny_reading.PAGE]
    images = [picture(40, 160, 1), *(np.full((64, 64, 3), grey, np.uint8) for grey in taught)]
    for image in images:
        *pieces, result = reader.stream(image, params)
        [expected] = reader.predict([image], [params])
        assert "".join(pieces) == result.text == expected.text
        assert result == expected
        assert len([piece for piece in pieces if piece]) > 1


@pytest.mark.parametrize("name", ["trocr", "got_ocr2"])
def test_a_batch_reads_as_its_pictures_alone(name, batched, tiny_reading, picture):
    """Texts of several lengths and limits come out of one batch as one by one."""
    make = TrOcrParams if name == "trocr" else GotOcr2Params
    greys = [*tiny_reading.LINES, tiny_reading.PAGE, 130]
    images = [*map(line, greys), picture(40, 160, 3)]
    params = [make(max_tokens=limit) for limit in (30, 3, 12, 7, 1)]
    together = batched(name, len(images)).predict(images, params)
    alone = batched(name, 1).predict(images, params)
    assert together == alone
    assert {result.usage.truncated for result in alone} == {True, False}


def test_beams_are_read_once_they_are_compared(batched, tiny_reading):
    """A checkpoint with a search over beams gives what transformers does, in one piece."""
    reader = batched("trocr")
    reader._reader._network._module.generation_config.num_beams = 3
    greys = [*tiny_reading.LINES]
    texts = [tiny_reading.LINES[grey] for grey in greys]
    results = reader.predict([*map(line, greys)], [TrOcrParams()] * len(greys))
    assert [result.text for result in results] == texts
    assert [result.usage for result in results] == [Usage(0, len(text) + 1) for text in texts]
    *pieces, result = reader.stream(line(greys[0]), TrOcrParams())
    assert [piece for piece in pieces if piece] == [result.text] == [texts[0]]
    assert pieces.count("") > 1  # each step is progress


def test_what_waits_forms_a_batch(generator, calls):
    """Up to ``max_batch`` texts are generated at once, the others after them."""
    made = generator(count=3)
    texts = [made.open(generator.prompt, 2) for _ in range(5)]
    for text in texts:
        assert sum(map(len, text)) == 2
    assert calls == [3, 2]


def test_streams_that_are_opened_together_form_a_batch(batched, calls, monkeypatch):
    """The first one lets the others come before it begins."""
    reader = batched("trocr", 3)
    monkeypatch.setattr(reader._reader._network, "run", calls.counting(reader._reader._network.run))
    streams = [reader.stream(line(40), TrOcrParams(max_tokens=limit)) for limit in (3, 1, 2)]
    assert [next(stream) for stream in streams] == [""] * 3
    results = [[*stream][-1] for stream in streams]
    assert [result.usage.completion_tokens for result in results] == [3, 1, 2]
    assert calls == [3]


def test_a_text_ends_by_itself(generator):
    """A text with fewer tokens has ended while others of its batch go on."""
    made = generator()
    short, long = made.open(generator.prompt, 2), made.open(generator.prompt, 5)
    assert [len(tokens) for tokens in short] == [1, 1]
    assert (short.is_ended, long.is_ended, len(long.tokens)) == (True, False, 2)
    assert sum(map(len, long)) == 5


def test_a_text_that_waits_learns_that_the_others_go_on(generator, calls):
    """It has an empty step for each of theirs, and begins when they have ended."""
    made = generator()
    first = made.open(generator.prompt, 3)
    assert len(next(iter(first))) == 1
    later = made.open(generator.prompt, 1)
    assert [len(tokens) for tokens in later] == [0, 0, 1]
    assert (first.is_ended, calls) == (True, [1, 1])


@pytest.fixture
def stopped(generator, monkeypatch):
    """``stopped(count)`` waits at a third token until so many texts are given up.

    Its ``written`` are the texts that were looked at, by identity.
    """

    def make(count):
        written, given_up, closed = {}, threading.Event(), []

        def is_end(tokens):
            written[id(tokens)] = tokens
            if len(tokens) == 3:
                given_up.wait()
            return False

        made = generator(is_end)
        forget = made.forget

        def forget_and_go_on(text):
            closed.append(text)
            if len(closed) == count:
                given_up.set()
            forget(text)

        monkeypatch.setattr(made, "forget", forget_and_go_on)
        made.written = written
        return made

    return make


def test_a_batch_that_nobody_wants_stops(generator, stopped):
    """It stops at its next token, and the next one begins; one member alone stops nothing."""
    made = stopped(2)
    texts = [made.open(generator.prompt, 40) for _ in range(2)]
    made.step(texts[0])  # begins
    texts[0].close()
    assert made._running
    texts[1].close()
    assert not made._running
    assert max(map(len, made.written.values())) <= 3
    assert sum(map(len, made.open(generator.prompt, 2))) == 2


def test_a_batch_stops_if_those_that_have_not_ended_are_given_up(generator, stopped):
    """A text that has ended keeps no batch going."""
    made = stopped(1)
    short, long = made.open(generator.prompt, 1), made.open(generator.prompt, 40)
    list(short)
    long.close()
    assert not made._running
    assert max(map(len, made.written.values())) <= 3


def test_a_text_that_nobody_wants_is_not_written_on(generator, stopped):
    """The others of its batch are."""
    made = stopped(1)
    texts = [made.open(generator.prompt, 20) for _ in range(2)]
    made.step(texts[0])  # begins
    texts[0].close()
    whole = sum(map(len, texts[1]))
    [less, all_tokens] = map(len, made.written.values())
    assert less <= 3 < all_tokens == whole


def test_a_search_over_beams_that_nobody_wants_stops(generator, monkeypatch):
    """It stops at its next step, though it has written no token yet."""
    made = generator()
    module, steps, given_up = made._network._module, [], threading.Event()
    module.generation_config.num_beams = 2
    forward, forget = module.forward, made.forget

    @functools.wraps(forward)
    def step(*args, **options):
        steps.append(1)
        if len(steps) == 2:
            given_up.wait()
        return forward(*args, **options)

    def forget_and_go_on(text):
        given_up.set()
        forget(text)

    monkeypatch.setattr(module, "forward", step)
    monkeypatch.setattr(made, "forget", forget_and_go_on)
    text = made.open(generator.prompt, 40)
    assert next(iter(text)) == []
    text.close()
    assert not made._running
    assert len(steps) == 2


def test_without_a_thread_the_texts_of_a_batch_fail(generator, monkeypatch):
    """Nobody waits for a batch that could not begin; the next one does."""

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    made = generator()
    texts = [made.open(generator.prompt, 1) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for text in texts:
            with pytest.raises(RuntimeError, match="can't start"):
                list(text)
    assert sum(map(len, made.open(generator.prompt, 1))) == 1


def test_a_text_that_is_given_up_while_it_waits_is_never_begun(generator, calls):
    """It leaves the queue."""
    made = generator(count=1)
    texts = [made.open(generator.prompt, 1) for _ in range(3)]
    texts[1].close()
    assert [len(text.tokens) for text in texts if [*text]] == [1, 1]
    assert calls == [1, 1]


def test_the_failure_of_a_batch_is_tried_alone(generator, monkeypatch):
    """What fails in a batch may succeed alone; what fails alone fails."""
    made = generator()
    run, failing = made._network.run, []

    def refusing(tensors, *args, **options):
        if len(tensors["pixel_values"]) > 1 or failing:
            raise RuntimeError("out of memory")
        return run(tensors, *args, **options)

    monkeypatch.setattr(made._network, "run", refusing)
    texts = [made.open(generator.prompt, 2) for _ in range(3)]
    assert [sum(map(len, text)) for text in texts] == [2, 2, 2]
    failing.append(True)
    text = made.open(generator.prompt, 2)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(text)


class Shortage(StoppingCriteria):
    """Fails a batch of several texts at its third token, and keeps what was written.

    kept: a weak reference to what the failed batch had in memory.
    """

    def __init__(self):
        self.written, self.kept = None, lambda: None

    def failing(self, run):
        """Return ``run`` with this."""

        def fail(tensors, *args, **options):
            assert self.kept() is None  # also without the collector of cycles
            memory = set()
            self.kept = weakref.ref(memory)
            options["stopping_criteria"].insert(0, self)  # before they are read
            return run(tensors, *args, **options)

        return fail

    def __call__(self, input_ids, *_, **__):
        """Say that no text ends here."""
        self.written = input_ids
        if input_ids.shape == (2, 4):
            raise torch.OutOfMemoryError("out of memory")
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.fixture
def shortage(generator, monkeypatch):
    """What batches of ``generator`` fail by."""
    network, found = generator()._network, Shortage()
    monkeypatch.setattr(network, "run", found.failing(network.run))
    monkeypatch.setattr(network._module.generation_config, "do_sample", False)
    gc.disable()
    yield found
    gc.enable()


def test_a_batch_that_fails_late_goes_on_alone(generator, shortage):
    """Memory grows with the texts: each ends alone, and no token is given out twice."""
    made = generator()
    prompts = [generator.prompt, {"pixel_values": -generator.prompt["pixel_values"]}]
    expected = [[*chain(*made.open(prompt, 9))] for prompt in prompts]
    texts = [made.open(prompt, 9) for prompt in prompts]
    found = [[*text] for text in texts]
    assert [[*chain(*steps)] for steps in found] == expected == [text.tokens for text in texts]
    assert expected[0] != expected[1]
    assert min(map(len, expected)) > 3
    assert [] in found[0]  # the tokens that are repeated are progress, too


def test_what_was_sampled_stays(generator, shortage, monkeypatch):
    """A text that is continued alone is the continuation of what was given out of it."""
    made = generator()
    chosen = made._network._module.generation_config
    monkeypatch.setattr(chosen, "do_sample", True)
    monkeypatch.setattr(chosen, "temperature", 1000.0)
    monkeypatch.setattr(chosen, "eos_token_id", None)
    texts = [made.open(generator.prompt, 9) for _ in range(2)]
    for text in texts:
        assert [*chain(*text)] == text.tokens == shortage.written[0, 1:].tolist()
    assert texts[0].tokens != texts[1].tokens


def test_no_text_has_no_region():
    """A picture in which nothing is read gives an empty text and an empty list."""
    usage = Usage(0, 2)
    assert text_reader.text_result("  \n", usage) == OcrResult("", [], usage)
    assert text_reader.text_result(" a\n", usage) == OcrResult(
        "a", [TextRegion("a", None, 1.0)], usage
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["  a", " ", "b ", " \n"], ["a", "", " b", "", ""]),
        (["a<", "/s", "x"], ["a", "", "</sx", ""]),
        (["a <", "/s>", "more"], ["a", "", "", ""]),
        (["a</s>b"], ["a", ""]),
        (["</s>", "b"], ["", "", ""]),
        (["</", "s>"], ["", "", ""]),
        (["a </", "s"], ["a", "", " </s"]),
    ],
)
def test_pieces_hold_back_what_may_not_belong_to_the_text(given, expected):
    """The space around the text and its end are never sent, also where they come in parts."""
    pieces = text_reader._TrimmedPieces(("</s>",))
    assert [*map(pieces.add, given), pieces.rest()] == expected
