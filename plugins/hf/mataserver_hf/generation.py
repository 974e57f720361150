"""Generates text token by token, and can be stopped after each.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, cast

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

from mataserver import InvalidParams, MataError, StopSequences, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mataserver_hf.network import Network
    from mataserver_hf.vlm_params import VlmParams

    Tensors = dict[str, torch.Tensor]

_MAX_TEMPERATURE = 1e4  # above, all tokens are equally likely; infinity would turn -inf into NaN
_MIN_TEMPERATURE = 1e-6  # below, the division overflows; the choice is deterministic anyway


class TextGenerator:
    """A network that continues a prompt, and the tokenizer of its output."""

    def __init__(self, network: Network, tokenizer: Any, *, keep_special: bool = False) -> None:
        """Keep the loaded parts; ``keep_special`` leaves special tokens in the text.

        The tokens that begin, end and pad a sequence are always left out.
        """
        self._network = network
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._control_tokens = {
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        }
        self._is_encoder_decoder: bool = network.config.is_encoder_decoder
        self._context: int = network.config.get_text_config().max_position_embeddings

    def generate(self, prompt: Tensors, params: VlmParams) -> tuple[str, Usage]:
        """Return the text that follows ``prompt``, and the token counts of both.

        Raises ``InvalidParams`` for a prompt that is too long.
        """
        *pieces, usage = self.stream(prompt, params)
        return "".join(cast("list[str]", pieces)), cast("Usage", usage)

    def stream(self, prompt: Tensors, params: VlmParams) -> Iterator[str | Usage]:
        """Yield the same text in pieces as they are generated, then the token counts.

        Closing the iterator stops the generation at the next token and waits for it.
        """
        tokens: SimpleQueue[int | None] = SimpleQueue()
        seen: list[int] = []
        stop = threading.Event()
        decoder, stops = self._decoder(), StopSequences(params.stops)
        with ThreadPoolExecutor(1, thread_name_prefix="generation") as thread:
            written = thread.submit(self._generate, prompt, params, tokens.put, stop)
            written.add_done_callback(lambda _: tokens.put(None))
            try:
                while not stops.reached and (token := tokens.get()) is not None:
                    seen.append(token)
                    if piece := stops.add(decoder.add(token)):
                        yield piece
                if stops.reached:
                    stop.set()
                    wait((written,))
                else:
                    written.result()
                if piece := stops.add(decoder.flush()) + stops.rest():
                    yield piece
                yield self._usage(prompt, params, seen, stopped=stops.reached)
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
        # The request's settings replace the checkpoint's, which may set sampling or beams.
        self._network.run(
            prompt,
            "generate",
            do_sample=False,
            num_beams=1,
            num_return_sequences=1,
            max_new_tokens=self._token_limit(prompt, params),
            streamer=_TokenStreamer(write),
            logits_processor=LogitsProcessorList([_Sampler(params)]),
            stopping_criteria=StoppingCriteriaList([_StopCriterion(stop)]),
        )

    def _token_limit(self, prompt: Tensors, params: VlmParams) -> int:
        """Return the maximum number of tokens to generate."""
        return min(params.max_tokens, self._free_context(prompt))

    def _usage(
        self, prompt: Tensors, params: VlmParams, tokens: Sequence[int], *, stopped: bool
    ) -> Usage:
        """Count the tokens, the end token included; ``stopped`` tells of a stop sequence."""
        ended = stopped or (bool(tokens) and tokens[-1] in self._network.end_tokens)
        truncated = len(tokens) >= self._token_limit(prompt, params) and not ended
        return Usage(prompt["input_ids"].shape[1], len(tokens), truncated)

    def _free_context(self, prompt: Tensors) -> int:
        """Return how many tokens fit after the prompt; an encoder's prompt takes no space."""
        length = prompt["input_ids"].shape[1]
        longest = self._context if self._is_encoder_decoder else self._context - 1
        if length > longest:
            raise InvalidParams(
                f"params.prompt: image and prompt take {length} tokens, and this model reads at "
                f"most {longest}"
            )
        return self._context - (1 if self._is_encoder_decoder else length)

    def _decoder(self) -> IncrementalDecoder:
        return IncrementalDecoder(self._decode)

    def _decode(self, tokens: list[int]) -> str:
        visible = [token for token in tokens if token not in self._control_tokens]
        # Cleaning up would change spaces in text that was returned already.
        text: str = self._tokenizer.decode(
            visible,
            skip_special_tokens=not self._keep_special,
            clean_up_tokenization_spaces=False,
        )
        return text


class IncrementalDecoder:
    """Decodes tokens to text one by one, and returns complete characters only.

    A token may be part of a character, and its text may depend on the tokens before it, so a window
    of tokens is decoded: those of the last two pieces.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        """Decode with ``decode``, which puts U+FFFD where a character is incomplete."""
        self._decode = decode
        self._tokens: list[int] = []
        self._emitted = 0  # how many tokens of the window were returned as text

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes, if any."""
        self._tokens.append(token)
        piece = self._piece()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._tokens = self._tokens[self._emitted :]
        self._emitted = len(self._tokens)
        return piece

    def flush(self) -> str:
        """Return the remaining text at the end, complete or not."""
        return self._piece()

    def _piece(self) -> str:
        given = self._decode(self._tokens[: self._emitted])
        return self._decode(self._tokens)[len(given) :]


class _TokenStreamer(BaseStreamer):
    """Passes on each token that ``generate`` streams, except the prompt, which comes first."""

    def __init__(self, write: Callable[[int], None]) -> None:
        self._write = write
        self._past_prompt = False

    def put(self, value: torch.Tensor) -> None:
        if self._past_prompt:
            self._write(int(value.item()))
        self._past_prompt = True

    def end(self) -> None:
        """Do nothing: the call of ``generate`` returns."""


class _StopCriterion(StoppingCriteria):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        stopped = self._stop.is_set()
        return torch.full((input_ids.shape[0],), stopped, device=input_ids.device)


class _Sampler(LogitsProcessor):
    """Makes the token that ``params`` select the likeliest one.

    Adding Gumbel noise to logits makes their largest a draw from their softmax. Unlike
    ``do_sample`` this uses no global random state, so requests cannot disturb each other, and a
    seed is enough to repeat one.
    """

    def __init__(self, params: VlmParams) -> None:
        self._params = params
        self._filters: list[Any] = []
        if params.top_k is not None:
            self._filters.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            self._filters.append(TopPLogitsWarper(params.top_p))
        self._random: torch.Generator | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if bool(scores.isnan().any()):
            raise MataError(
                "the network computed NaN or infinite values; dtype float32 avoids overflows"
            )
        if self._params.temperature == 0:
            return scores
        temperature = min(max(self._params.temperature, _MIN_TEMPERATURE), _MAX_TEMPERATURE)
        highest = scores.max(-1, keepdim=True).values
        scores = (scores - highest) / temperature
        for cut in self._filters:
            scores = cut(input_ids, scores)
        noise = torch.empty_like(scores).exponential_(generator=self._generator(scores.device))
        return scores - noise.log()

    def _generator(self, device: torch.device) -> torch.Generator:
        if self._random is None:
            self._random = torch.Generator(device)
            if self._params.seed is None:
                self._random.seed()
            else:
                self._random.manual_seed(self._params.seed)
        return self._random
