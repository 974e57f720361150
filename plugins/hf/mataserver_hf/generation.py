"""Generates text token by token by each question's own rules, and can be stopped after each.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import TYPE_CHECKING, Any

import torch
from transformers import TopKLogitsWarper, TopPLogitsWarper

from mataserver import InvalidParams, StopSequences, Usage
from mataserver_hf.batch_generation import BatchGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from mataserver_hf.network import Network
    from mataserver_hf.vlm_params import VlmParams

    Tensors = dict[str, torch.Tensor]

_MAX_TEMPERATURE = 1e4  # above, all tokens are equally likely; infinity would turn -inf into NaN
_MIN_TEMPERATURE = 1e-6  # below, the division overflows; the choice is deterministic anyway


class TextGenerator:
    """A network that continues a prompt, and the tokenizer of its output."""

    def __init__(
        self,
        network: Network,
        tokenizer: Any,
        max_batch: int = 1,
        *,
        keep_special: bool = False,
        stops: tuple[str, ...] = (),
    ) -> None:
        """Keep the loaded parts; ``keep_special`` leaves special tokens in the text.

        Every text ends before the first of ``stops``.

        The tokens that begin, end and pad a sequence are always left out. Up to ``max_batch`` texts
        whose prompts have the same shapes are generated as one batch if they are asked for at the
        same time; others side by side.
        """
        self._network = network
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._stops = stops
        self._control_tokens = {
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
        }
        self._is_encoder_decoder: bool = network.config.is_encoder_decoder
        self._context: int = network.config.get_text_config().max_position_embeddings
        # The request's settings replace the checkpoint's, which may set sampling or beams.
        options = {"do_sample": False, "num_beams": 1}
        self._generator = BatchGenerator(network, self._is_end, max_batch, options, at_once=True)

    def generate(self, questions: Sequence[tuple[Tensors, VlmParams]]) -> list[tuple[str, Usage]]:
        """Return the text that follows each prompt, and the token counts of both.

        Raises ``InvalidParams`` for a prompt that is too long.
        """
        with contextlib.ExitStack() as opened:
            texts = [
                opened.enter_context(contextlib.closing(self.stream(*each))) for each in questions
            ]
            steps = list(itertools.zip_longest(*texts, fillvalue=""))
        answers = []
        for parts in zip(*steps, strict=True):
            [usage] = (each for each in parts if isinstance(each, Usage))
            answers.append(("".join(each for each in parts if isinstance(each, str)), usage))
        return answers

    def stream(self, prompt: Tensors, params: VlmParams) -> Generator[str | Usage]:
        """Yield the same text in pieces as they are generated, then the token counts.

        An empty piece says that the network is at work. Closing the iterator gives the text up; if
        its batch has no other, it waits for the next token, at which that stops.
        """
        limit = self._token_limit(prompt, params)
        decoder, stops = (
            IncrementalDecoder(self._decode),
            StopSequences((*params.stops, *self._stops)),
        )
        seen: list[int] = []
        rule = functools.partial(_Sampler, params)
        with contextlib.closing(self._generator.open(prompt, limit, rule)) as text:
            yield ""  # lets those that came at the same time join its batch
            for tokens in text:
                piece = ""
                for token in tokens:
                    seen.append(token)
                    piece += stops.add(decoder.add(token))
                    if stops.reached:
                        text.close()
                        break
                yield piece
                if stops.reached:
                    break
            if piece := stops.add(decoder.flush()) + stops.rest():
                yield piece
            ended = stops.reached or (bool(seen) and self._is_end(seen))
            truncated = len(seen) >= limit and not ended
            yield Usage(prompt["input_ids"].shape[1], len(seen), truncated)

    def close(self) -> None:
        """Free the weights."""
        self._generator.close()

    def _is_end(self, tokens: list[int]) -> bool:
        return tokens[-1] in self._network.end_tokens

    def _token_limit(self, prompt: Tensors, params: VlmParams) -> int:
        """Return the maximum number of tokens to generate."""
        return min(params.max_tokens, self._free_context(prompt))

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


class _Sampler:
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
