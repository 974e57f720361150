"""The parameters of a question to a vision-language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from mataserver import Confidence, InvalidParams, MaxTokens, Params, Temperature, Text, TopK
from mataserver_hf.dialects import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

Stop = Annotated[str, Meta(min_length=1, max_length=256)]

MAX_TURNS = 128
MAX_IMAGES = 256
REQUEST_IMAGE = "image"
"""The field of a request's own image; the others are parameters."""
MAX_HISTORY = 2**20
"""Characters of a history. What a model reads is its context; this bounds the way to that."""


Images = Annotated[tuple[Annotated[bytes, Meta(min_length=1)], ...], Meta(max_length=MAX_IMAGES)]
Places = Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=MAX_IMAGES)]


class Turn(Struct, frozen=True, forbid_unknown_fields=True):
    """An earlier question, which may be empty beside an image, its answer, and its images.

    ``image_places`` are those of all images that the question shows, as in ``VlmParams``.
    """

    prompt: Text
    answer: str
    images: Images = ()
    image_places: Places = ()


class VlmParams(Params, frozen=True):
    """What to ask, and how to write the answer.

    prompt:        the question or instruction. Needed.
    system_prompt: how to behave; refused by models that have no place for one.
    history:       earlier questions with their answers, the oldest first; refused by models whose
                   chat template holds none.
    image_turn:    which question shows the image, from 0: by default the first of the history.
    images:        further images of the question, encoded; those of an earlier one are in its turn.
                   Refused by models that read one image.
    image_places:  where in ``prompt`` each image of the question stands, the request's own first:
                   after how many characters, ascending. By default all stand before it. Where a
                   model reads images only there, the words have a line break instead.
    max_tokens:    how many tokens at most; an answer ends earlier where the model's context does.
    temperature:   0 takes the likeliest token every time; above, tokens are drawn from the softmax
                   of the logits divided by it.
    top_k:         draw from so many of the likeliest tokens only; by default from all.
    top_p:         of those, draw from the likeliest whose probabilities add up to this.
    seed:          the same seed on the same machine draws the same tokens.
    stop:          a text, or up to four: the answer ends before the first of them.
    output_mode:   ask for an answer that can be parsed, and parse it; see ``VlmResult``.

    Without a temperature, ``top_k``, ``top_p`` and ``seed`` have no effect.
    """

    prompt: Text = ""
    system_prompt: Text = ""
    history: Annotated[tuple[Turn, ...], Meta(max_length=MAX_TURNS)] = ()
    image_turn: Annotated[int, Meta(ge=0, le=MAX_TURNS)] = 0
    images: Images = ()
    image_places: Places = ()
    max_tokens: MaxTokens = 512
    temperature: Temperature = 0.0
    top_k: TopK | None = None
    top_p: Confidence = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Stop | Annotated[tuple[Stop, ...], Meta(max_length=4)] = ()
    output_mode: Mode | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts of ``stop``."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop

    def pictures(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield field and encoded bytes of every image, in the order in which they are shown.

        Of the request's own, which is the first of its question, there are no bytes here.
        """
        for index, (where, asked) in enumerate(self.questions()):
            if index == self.image_turn:
                yield REQUEST_IMAGE, None
            for place, image in enumerate(asked.images):
                yield f"{where}images[{place}]", image

    def questions(self) -> Iterator[tuple[str, Turn | VlmParams]]:
        """Yield the fields' beginning, and what has them, of every question, the oldest first."""
        for at, turn in enumerate(self.history):
            yield f"params.history[{at}].", turn
        yield "params.", self

    def image_count(self, index: int, asked: Turn | VlmParams) -> int:
        """Return how many images the question ``asked`` shows, the one of that index."""
        return len(asked.images) + (index == self.image_turn)

    def check(self) -> None:
        """Raise ``InvalidParams`` without a question, and for a history that is none."""
        if not self.prompt.strip():
            raise InvalidParams("params.prompt: this model needs a prompt")
        if self.image_turn > len(self.history):
            raise InvalidParams(
                f"params.image_turn: must be at most {len(self.history)}, the turns of the history"
            )
        for index, turn in enumerate(self.history):
            if not self.image_count(index, turn) and not turn.prompt.strip():
                raise InvalidParams(f"params.history[{index}].prompt: must not be empty")
        if sum(len(turn.prompt) + len(turn.answer) for turn in self.history) > MAX_HISTORY:
            raise InvalidParams(f"params.history: at most {MAX_HISTORY} characters")
        for index, (where, asked) in enumerate(self.questions()):
            _check_places(where, asked, self.image_count(index, asked))


def _check_places(where: str, asked: Turn | VlmParams, count: int) -> None:
    """Raise ``InvalidParams`` unless each of ``count`` images has its place, or none has one."""
    places = asked.image_places
    if places and len(places) != count:
        raise InvalidParams(
            f"{where}image_places: one for each image of the question: {count}, got {len(places)}"
        )
    if list(places) != sorted(places):
        raise InvalidParams(f"{where}image_places: must ascend")
    if places and places[-1] > len(asked.prompt):
        raise InvalidParams(
            f"{where}image_places: must be at most {len(asked.prompt)}, the question's characters"
        )
