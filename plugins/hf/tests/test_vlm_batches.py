"""Questions that are answered together: the same answers as alone, each to its own end."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from transformers import LogitsProcessor

from mataserver import MataError, ModelSpec
from mataserver_hf import vlm
from mataserver_hf.vlm import VlmParams

FAMILIES = sorted(vlm.FAMILIES)
SEVERAL = sorted(vlm.FAMILIES - {"paligemma", "florence2"})


@pytest.fixture
def batched(checkpoint, context):
    """``batched(name, count)`` is a model that answers so many questions at once.

    Its ``batches`` are the numbers of texts that were written together.
    """

    def load(name="llava", count=4):
        spec = ModelSpec(f"tiny/{name}", "vlm", "hf", checkpoint(name))
        made = vlm.load(spec, context(threads=1, max_batch=count))
        network = made._generator._network
        made.batches, run = [], network.run

        def counting(tensors, *args, **options):
            made.batches.append(len(tensors["input_ids"]))
            return run(tensors, *args, **options)

        network.run = counting
        return made

    return load


@pytest.fixture
def images(picture):
    """Three pictures of one size."""
    return [picture(60, 90, seed) for seed in range(3)]


def asked(limits=(9, 4, 12), **changes):
    """Return three questions of the same length, with seeds of their own."""
    questions = ("What is this?", "Who was here?", "How is Anna??")
    return [
        VlmParams(prompt=prompt, max_tokens=limit, seed=seed, **changes)
        for seed, (prompt, limit) in enumerate(zip(questions, limits, strict=True))
    ]


def alone(model, images, params):
    """Return the answers, asked for one by one."""
    return [model.predict([image], [each])[0] for image, each in zip(images, params, strict=True)]


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_together_as_alone(name, temperature, batched, images):
    """Whether greedy or drawn, a batch gives the texts and counts of its questions alone."""
    model = batched(name)
    params = asked(temperature=temperature, top_k=90, top_p=0.95)
    together = model.predict(images, params)
    assert model.batches == [3]
    assert together == alone(model, images, params)
    assert len({result.text for result in together}) == 3
    assert [result.usage.completion_tokens for result in together] == [9, 4, 12]


@pytest.mark.parametrize("name", SEVERAL)
def test_several_images_of_each_question(name, batched, images):
    """The pictures of a conversation stay with their question."""
    model = batched(name)
    pngs = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image[:, ::-1])).save(buffer, "PNG")
        pngs.append(buffer.getvalue())
    further = [(pngs[0], pngs[1]), (pngs[2], pngs[0]), (pngs[1], pngs[2])]
    params = [replace(each, images=more) for each, more in zip(asked(), further, strict=True)]
    together = model.predict(images, params)
    assert model.batches == [3]
    assert together == alone(model, images, params)
    swapped = [replace(each, images=each.images[::-1]) for each in params]
    assert model.predict(images, swapped) != together


def test_stop_sequences_of_their_own(batched, images):
    """A text ends before its own stop sequence, and the others go on."""
    model = batched()
    params = asked((12, 12, 12), temperature=5.0)
    whole = alone(model, images, params)
    stop = whole[1].text[3:5]
    params[1] = replace(params[1], stop=stop)
    [first, stopped, last] = model.predict(images, params)
    assert model.batches[-1] == 3
    assert [first, last] == [whole[0], whole[2]]
    assert stopped.text == whole[1].text.partition(stop)[0]
    assert stopped == alone(model, images[1:2], params[1:2])[0]


def test_streams_that_come_together_are_a_batch(batched, images):
    """Up to ``max_batch`` of them; their pieces are their answers."""
    model = batched(count=2)
    params = asked(temperature=5.0)
    expected = alone(model, images, params)
    model.batches.clear()
    streams = [model.stream(*each) for each in zip(images, params, strict=True)]
    assert [next(stream) for stream in streams] == [""] * 3
    for stream, result in zip(streams, expected, strict=True):
        *pieces, last = stream
        assert last == result
        assert "".join(pieces) == result.text
    assert model.batches == [2, 1]
    assert model._generator._generator._running == []  # nothing is kept of them


def test_questions_of_other_shapes_are_no_batch(batched, picture):
    """Nothing is padded: they are written side by side."""
    model = batched()
    images = [picture(60, 90), picture(60, 90)]
    params = [VlmParams(prompt=prompt, max_tokens=5) for prompt in ("What?", "What is this?")]
    assert model.predict(images, params) == alone(model, images, params)
    assert model.batches == [1, 1, 1, 1]


def test_nobody_waits_for_another_batch(batched, images):
    """A question that comes later has its answer while the one before it is being written."""
    model = batched()
    params = asked((400, 5, 5), temperature=5.0)
    long = model.stream(images[0], params[0])
    next(long)
    next(long)  # begins
    [first] = model._generator._generator._running
    *_, later = model.stream(images[1], params[1])
    assert later.usage.completion_tokens == 5
    assert model._generator._generator._running == [first]
    long.close()
    assert model._generator._generator._running == []


def test_one_that_is_given_up_stops_no_other(batched, images):
    """Neither while it is written nor before it begins."""
    model = batched()
    params = asked((9, 400, 9), temperature=5.0)
    expected = alone(model, images[::2], params[::2])
    streams = [model.stream(*each) for each in zip(images, params, strict=True)]
    for stream in streams:
        next(stream)
    next(streams[0])  # begins
    streams[1].close()
    assert [[*stream][-1] for stream in streams[::2]] == expected
    assert model.batches[-1] == 3
    streams = [model.stream(*each) for each in zip(images, params, strict=True)]
    for stream in streams:
        next(stream)
    streams[1].close()
    assert [[*stream][-1] for stream in streams[::2]] == expected
    assert model.batches[-1] == 2


def test_all_are_given_up(batched, images):
    """The batch stops, and the model answers the next question."""
    model = batched()
    params = asked((400, 400, 400), temperature=5.0)
    streams = [model.stream(*each) for each in zip(images, params, strict=True)]
    for _ in range(2):
        for stream in streams:
            next(stream)
    for stream in streams:
        stream.close()
    assert model._generator._generator._running == []
    assert alone(model, images[:1], asked()[:1])[0].text


def test_closed_amid_a_batch(batched, images):
    """A model that is closed stops what it writes."""
    model = batched()
    streams = [model.stream(*each) for each in zip(images, asked((400,) * 3), strict=True)]
    for _ in range(2):
        for stream in streams:
            next(stream)
    model.close()
    assert model._generator._generator._running == []


class Fault(LogitsProcessor):
    """At the third token, a picture whose text is no numbers, or an error of every larger batch."""

    def __init__(self, picture=None, error=None):
        self.picture, self.error = picture, error

    def __call__(self, input_ids, scores):
        self.steps += 1
        if self.steps < 3:
            return scores
        if self.error and len(scores) > 1:
            self.written = input_ids[:, -2:].tolist()
            raise self.error
        for row, picture in enumerate(self.pictures):
            if self.picture is not None and torch.equal(picture, self.picture):
                scores[row] = torch.nan
        return scores

    def breaking(self, run):
        """Return ``run`` with this before the rules of the texts."""

        def broken(tensors, *args, **options):
            self.steps, self.pictures = 0, tensors["pixel_values"]
            options["logits_processor"].insert(0, self)
            return run(tensors, *args, **options)

        return broken


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_a_row_that_is_no_number_fails_alone(batched, images, temperature):
    """The others have the texts that they have without it, also those drawn at random."""
    model = batched()
    params = asked((9, 9, 9), temperature=temperature)
    expected = alone(model, images[::2], params[::2])
    model.batches.clear()
    network = model._generator._network
    bad = model._prompt_processor.tensors(images[1:2], params[1], "x")["pixel_values"][0]
    network.run = Fault(bad).breaking(network.run)
    streams = [model.stream(*each) for each in zip(images, params, strict=True)]
    for stream in streams:
        next(stream)
    first = [*streams[0]]
    with pytest.raises(MataError, match="float32"):
        list(streams[1])
    *pieces, last = [*streams[2]]
    assert [first[-1], last] == expected
    assert "".join(pieces) == last.text
    assert model.batches == [3, 1, 1, 1]


@pytest.mark.parametrize("seeded", [True, False])
def test_without_memory_each_goes_on_alone(batched, images, seeded):
    """One after the other, with what it has given out; a seed draws what it would have."""
    model = batched()
    params = asked((9, 5, 7), temperature=5.0)
    expected = alone(model, images, params)
    if not seeded:
        params = [replace(each, seed=None) for each in params]
    model.batches.clear()
    network = model._generator._network
    fault, together = Fault(error=torch.OutOfMemoryError()), []
    run = fault.breaking(network.run)

    def watched(*args, **options):
        together.append(True)
        try:
            return run(*args, **options)
        finally:
            most.append(len(together))
            together.pop()

    most, network.run = [], watched
    found = model.predict(images, params)
    # A text that is drawn at random may end with one of its first tokens.
    ended = [any(map(model._generator._is_end, ([each] for each in row))) for row in fault.written]
    assert model.batches == [3] + [1] * ended.count(False)
    assert most == [1] * len(model.batches)
    assert (found == expected) == seeded
    for result, tokens in zip(found, fault.written, strict=True):
        assert result.text.startswith(model._generator._decode(tokens).rstrip("\ufffd"))
