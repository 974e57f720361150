"""Writes text with a network, token by token, and can be stopped at any of them.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from mataserver import InvalidParams, MataError, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mataserver_hf.network import Network
    from mataserver_hf.vlm_params import VlmParams

    Tensors = dict[str, torch.Tensor]

_HOTTEST = 1e4  # from there on every token is as likely; infinite, it would make -inf no number
_COLDEST = 1e-6  # below it a division by the temperature overflows, and nothing is left to chance


class Writer:
    """A network that continues a prompt, and the tokenizer of what it writes."""

    def __init__(self, network: Network, tokenizer: Any, *, keep_special: bool = False) -> None:
        """Keep the loaded parts; ``keep_special`` leaves special tokens in the text.

        The tokens that begin, end and fill a sequence are never part of it.
        """
        self._network = network
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._silent = {
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        }
        self._encodes: bool = network.config.is_encoder_decoder
        self._context: int = network.config.get_text_config().max_position_embeddings

    def write(self, prompt: Tensors, params: VlmParams) -> tuple[str, Usage]:
        """Return the text that follows ``prompt``, and how many tokens both take.

        Raises ``InvalidParams`` for a prompt that is too long.
        """
        tokens: list[int] = []
        self._generate(prompt, params, tokens.append, threading.Event())
        transcript = self._transcript()
        text = "".join([*map(transcript.add, tokens), transcript.rest()])
        return text, self._usage(prompt, params, tokens)

    def pieces(self, prompt: Tensors, params: VlmParams) -> Iterator[str | Usage]:
        """Yield the same text in pieces, as they are written, and last the tokens.

        Closing the iterator ends the writing at the next token and waits for that.
        """
        tokens: SimpleQueue[int | None] = SimpleQueue()
        seen: list[int] = []
        stop = threading.Event()
        transcript = self._transcript()
        with ThreadPoolExecutor(1, thread_name_prefix="generation") as thread:
            written = thread.submit(self._generate, prompt, params, tokens.put, stop)
            written.add_done_callback(lambda _: tokens.put(None))
            try:
                while (token := tokens.get()) is not None:
                    seen.append(token)
                    if piece := transcript.add(token):
                        yield piece
                written.result()
                if piece := transcript.rest():
                    yield piece
                yield self._usage(prompt, params, seen)
            finally:
                stop.set()

    def close(self) -> None:
        """Free the weights."""
        self._network.close()

    def _generate(
        self,
        prompt: Tensors,
        params: VlmParams,
        write: Callable[[int], None],
        stop: threading.Event,
    ) -> None:
        # A checkpoint may ask for sampling or beams; here only the request asks.
        self._network.run(
            prompt,
            "generate",
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._most(prompt, params),
            streamer=_Tokens(write),
            logits_processor=LogitsProcessorList([_Choice(params)]),
            stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
        )

    def _most(self, prompt: Tensors, params: VlmParams) -> int:
        """Return how many tokens may be written."""
        return min(params.max_tokens, self._room(prompt))

    def _usage(self, prompt: Tensors, params: VlmParams, tokens: Sequence[int]) -> Usage:
        """Count the tokens; that which ends a text is one of them."""
        ended = bool(tokens) and tokens[-1] in self._network.ends
        truncated = len(tokens) >= self._most(prompt, params) and not ended
        return Usage(prompt["input_ids"].shape[1], len(tokens), truncated)

    def _room(self, prompt: Tensors) -> int:
        """Return how many tokens fit behind the prompt; an encoder's prompt takes no room."""
        length = prompt["input_ids"].shape[1]
        longest = self._context if self._encodes else self._context - 1
        if length > longest:
            raise InvalidParams(
                f"params.prompt: image and prompt take {length} tokens, and this model reads at "
                f"most {longest}"
            )
        return self._context - (1 if self._encodes else length)

    def _transcript(self) -> Transcript:
        return Transcript(self._decode)

    def _decode(self, tokens: list[int]) -> str:
        heard = [token for token in tokens if token not in self._silent]
        # Cleaning up would change spaces that were given out already.
        text: str = self._tokenizer.decode(
            heard,
            skip_special_tokens=not self._keep_special,
            clean_up_tokenization_spaces=False,
        )
        return text


class Transcript:
    """Turns tokens into text as they come, and gives out whole characters only.

    A token may be a part of a character, and how it reads may depend on those before it, so a
    window of tokens is decoded: those of the last two pieces.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        """Decode with ``decode``, which puts U+FFFD where a character is not complete."""
        self._decode = decode
        self._tokens: list[int] = []
        self._given = 0  # how many tokens of the window were given out as text

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes, if any."""
        self._tokens.append(token)
        piece = self._piece()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._tokens = self._tokens[self._given :]
        self._given = len(self._tokens)
        return piece

    def rest(self) -> str:
        """Return what is left at the end, complete or not."""
        return self._piece()

    def _piece(self) -> str:
        given = self._decode(self._tokens[: self._given])
        return self._decode(self._tokens)[len(given) :]


class _Tokens(BaseStreamer):
    """Hands on what ``generate`` streams: first the prompt, then one token at a time."""

    def __init__(self, write: Callable[[int], None]) -> None:
        self._write = write
        self._begun = False

    def put(self, value: torch.Tensor) -> None:
        if self._begun:
            self._write(int(value.item()))
        self._begun = True

    def end(self) -> None:
        """Have nothing to do: the call of ``generate`` returns."""


class _Stop(StoppingCriteria):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        stopped = self._stop.is_set()
        return torch.full((input_ids.shape[0],), stopped, device=input_ids.device)


class _Choice(LogitsProcessor):
    """Makes the token that ``params`` choose the likeliest one.

    Noise of a Gumbel distribution, added to logits, makes the largest of them a draw from their
    softmax. Unlike ``do_sample`` it needs no global random numbers, so requests cannot disturb each
    other and a seed is enough to repeat one.
    """

    def __init__(self, params: VlmParams) -> None:
        self._params = params
        self._cuts: list[Any] = []
        if params.top_k is not None:
            self._cuts.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            self._cuts.append(TopPLogitsWarper(params.top_p))
        self._chance: torch.Generator | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if bool(scores.isnan().any()):
            raise MataError(
                "the network computed values that are no numbers; dtype float32 avoids overflows"
            )
        if self._params.temperature == 0:
            return scores
        temperature = min(max(self._params.temperature, _COLDEST), _HOTTEST)
        highest = scores.max(-1, keepdim=True).values
        scores = (scores - highest) / temperature
        for cut in self._cuts:
            scores = cut(input_ids, scores)
        noise = torch.empty_like(scores).exponential_(generator=self._generator(scores.device))
        return scores - noise.log()

    def _generator(self, device: torch.device) -> torch.Generator:
        if self._chance is None:
            self._chance = torch.Generator(device)
            if self._params.seed is None:
                self._chance.seed()
            else:
                self._chance.manual_seed(self._params.seed)
        return self._chance
