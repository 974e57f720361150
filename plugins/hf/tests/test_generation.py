"""How text is written: what chance may choose from, in pieces, and stopped."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mataserver import Usage
from mataserver_hf.generation import IncrementalDecoder, TextGenerator, _Sampler
from mataserver_hf.vlm import VlmParams

FAST = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # of a machine that is busy
)

LOGITS = torch.tensor([[1.0, 3.0, 2.0, -1.0, -torch.inf]])


def chosen(draws=1, **params):
    """Return which tokens are the likeliest after ``_Sampler``, for seeds 0 to ``draws`` - 1."""
    made = (_Sampler(VlmParams(**{"seed": seed, **params})) for seed in range(draws))
    return [int(choice(torch.zeros(1, 1), LOGITS.clone()).argmax()) for choice in made]


def test_greedy():
    """At temperature 0 the likeliest token is taken, whatever else is asked."""
    assert set(chosen(9, temperature=0.0, top_k=3, top_p=0.9)) == {1}


def test_draws_from_the_softmax():
    """Tokens come as often as the softmax of the logits over the temperature says."""
    for temperature in (0.5, 1.0, 3.0):
        draws = chosen(2000, temperature=temperature)
        share = torch.bincount(torch.tensor(draws), minlength=5) / len(draws)
        expected = (LOGITS[0] / temperature).softmax(-1)
        assert torch.allclose(share, expected, atol=0.05), (share, expected)
        assert share[4] == 0


def test_cuts():
    """``top_k`` leaves so many tokens, ``top_p`` the likeliest that reach it; 0 leaves one."""
    assert set(chosen(300, temperature=5.0, top_k=2)) == {1, 2}
    assert set(chosen(300, temperature=1.0, top_p=0.7)) == {1, 2}
    assert set(chosen(300, temperature=1.0, top_p=0.6)) == {1}
    assert set(chosen(300, temperature=1.0, top_p=0.0)) == {1}
    assert set(chosen(300, temperature=5.0, top_k=99)) == {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 1e-3])
def test_hardly_any_temperature(temperature):
    """A temperature next to 0 is greedy rather than an overflow."""
    assert set(chosen(20, temperature=temperature)) == {1}


@pytest.mark.parametrize("temperature", [1e4, 1e300])
def test_any_temperature(temperature):
    """However hot: every token is as likely, and one that cannot come does not."""
    choice = _Sampler(VlmParams(temperature=temperature, seed=0))
    scores = torch.tensor([[0.0, 5.0, -torch.inf, 1.0]])
    assert {int(choice(None, scores.clone()).argmax()) for _ in range(100)} == {0, 1, 3}


def test_seed():
    """The same seed draws the same tokens again, step by step, and no seed draws others."""

    def draw(**params):
        choice = _Sampler(VlmParams(temperature=50.0, **params))
        return [int(choice(None, torch.zeros(1, 1000)).argmax()) for _ in range(8)]

    assert draw(seed=7) == draw(seed=7)
    assert draw(seed=7) != draw(seed=8)
    assert draw() != draw()
    assert len(set(draw(seed=7))) > 1


def test_chance_is_its_own():
    """Drawing neither reads nor moves torch's global random numbers."""
    before = torch.random.get_rng_state()
    chosen(3, temperature=1.0)
    assert torch.equal(torch.random.get_rng_state(), before)


@FAST
@given(st.lists(st.binary(min_size=1, max_size=3)), st.text(max_size=30), st.data())
def test_pieces_add_up(noise, text, data):
    """Pieces add up to what all tokens decode to, however characters are cut into tokens."""
    whole = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)))) | {0, len(whole)})
    tokens = [whole[a:b] for a, b in itertools.pairwise(cuts)] + noise

    def decode(numbers):
        return b"".join(tokens[number] for number in numbers).decode(errors="replace")

    decoder = IncrementalDecoder(decode)
    pieces = [decoder.add(number) for number in range(len(tokens))]
    assert "".join([*pieces, decoder.flush()]) == decode(range(len(tokens)))
    if not noise and "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_characters_come_whole():
    """A character of several tokens comes with its last one; one that never ends comes last."""
    parts = [b"a", b"\xe2\x82", b"\xac", b"b", b"\xf0\x9f"]
    decoder = IncrementalDecoder(
        lambda each: b"".join(parts[i] for i in each).decode(errors="replace")
    )
    assert [decoder.add(index) for index in range(5)] == ["a", "", "€", "b", ""]
    assert decoder.flush() == "\ufffd"


def test_leading_space_depends_on_what_came_before():
    """A decoder that drops a leading space drops the first one only."""
    words = [" one", " two", " three"]
    decoder = IncrementalDecoder(lambda each: "".join(words[i] for i in each).removeprefix(" "))
    assert [decoder.add(index) for index in range(3)] == ["one", " two", " three"]


class Gate:
    """A network that writes a token each time it is let."""

    def __init__(self, network):
        self.config, self.end_tokens = network.config, network.end_tokens
        self.network = network
        self.let = threading.Semaphore(0)
        self.made = 0

    def run(self, prompt, method, **options):
        self.thread = threading.current_thread()
        options["logits_processor"].append(self)
        return self.network.run(prompt, method, **options)

    def __call__(self, input_ids, scores):
        self.let.acquire()
        self.made += 1
        return scores

    def writer(self):
        """Return what generates with this; only when a text is given up is it let through."""
        made = TextGenerator(self, Numbers())
        forget = made._generator.forget

        def forget_and_let_through(text):
            self.let.release(500)
            forget(text)

        made._generator.forget = forget_and_let_through
        return made


class Numbers:
    """Decodes a token as its number."""

    bos_token_id = eos_token_id = pad_token_id = -1

    def decode(self, tokens, **options):
        return "".join(f"{token} " for token in tokens)


@pytest.fixture
def gate(model):
    """A gate before a real network."""
    return Gate(model("llava")._generator._network)


@pytest.fixture
def prompt(model, picture):
    """A real question."""
    return model("llava")._prompt_processor.tensors([picture(40, 40)], VlmParams(), "What?")


def test_closing_stops_at_the_next_token(gate, prompt):
    """Closing the pieces ends the writing one token later at most and waits for its thread."""
    pieces = gate.writer().stream(prompt, VlmParams(temperature=50.0, seed=0))
    gate.let.release(2)
    assert next(pieces) == ""  # lets others come
    for _ in range(2):
        assert next(pieces).strip().isdigit()
    pieces.close()
    assert gate.made in {2, 3}
    assert not gate.thread.is_alive()


def test_a_stop_sequence_ends_the_text(gate, prompt):
    """The text ends before the sequence and the writing after it; both are counted up to there."""
    words = VlmParams(temperature=50.0, seed=0, max_tokens=40)
    writer = TextGenerator(gate.network, Numbers())
    [(whole, usage)] = writer.generate([(prompt, words)])
    assert (usage.completion_tokens, usage.truncated) == (40, True)
    numbers = whole.split()
    stop = f"{numbers[6]} {numbers[7]} "
    before, _, _ = whole.partition(stop)
    assert writer.generate([(prompt, replace(words, stop=stop))])[0][0] == before
    params = replace(words, stop=("never", stop))
    [(text, usage)] = writer.generate([(prompt, params)])
    assert text == before
    counted = (before + stop).count(" ")
    assert usage == Usage(prompt["input_ids"].shape[1], counted)

    gate.let.release(counted)
    assert gate.writer().generate([(prompt, params)]) == [(before, usage)]
    assert gate.made in {counted, counted + 1}


def test_closing_a_model_that_writes(model, picture):
    """A real model stops as well, its thread ends, and it answers the next question."""
    loaded = model("llava")
    params = VlmParams(prompt="What?", max_tokens=400, temperature=5.0, seed=0)
    pieces = loaded.stream(picture(40, 40), params)
    assert isinstance(next(pieces), str)
    pieces.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("generation")]
    assert loaded.predict([picture(40, 40)], [VlmParams(prompt="What?", max_tokens=3)])[0].text


def test_errors_reach_the_reader(gate, prompt):
    """What fails while text is written is raised to whoever reads it, after the pieces so far."""

    class Failing(Gate):
        def __call__(self, input_ids, scores):
            self.made += 1
            if self.made == 3:
                raise torch.OutOfMemoryError
            return scores

    pieces = TextGenerator(Failing(gate.network), Numbers()).stream(prompt, VlmParams())
    assert next(pieces) == ""
    assert next(pieces)
    assert next(pieces)
    with pytest.raises(torch.OutOfMemoryError):
        assert not any(pieces)
    with pytest.raises(torch.OutOfMemoryError):
        TextGenerator(Failing(gate.network), Numbers()).generate([(prompt, VlmParams())])
