"""What of a checkpoint's settings for generating text is followed.

They are those of ``generation_config.json``, or else of ``config.json``. The rest would choose
another search, end a text by the clock, fail for want of what is not here, or cost memory only.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from mataserver import MataError
from mataserver_hf.network import end_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

_settings: Any = GenerationConfig  # which transformers does not type
_STARTS = ("decoder_start_token_id", "bos_token_id")
FOLLOWED = (
    *_STARTS,
    "eos_token_id",
    "pad_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "min_length",
    "min_new_tokens",
    "exponential_decay_length_penalty",
    "renormalize_logits",
    "num_beams",
    "length_penalty",
    "early_stopping",
)
"""Which tokens begin and end a text, which are likelier or never written, and the search by beams.

Where they fail together, the first with which those before it fail is told: tokens are needed by
the others, and the first of all by a decoder beside an encoder.
"""
_FAULTS = (ValueError, TypeError, LookupError, RuntimeError, AttributeError, OverflowError)
_MAX_REASON = 300


def followed(module: Any, name: str) -> GenerationConfig:
    """Return the settings of ``module`` that are followed; an empty list says nothing.

    Raises ``MataError`` for one that would fail each request, with its name, and for a decoder
    beside an encoder where no setting says which token it begins with.
    """
    found = _found(module.generation_config)
    if module.config.is_encoder_decoder and found.keys().isdisjoint(_STARTS):
        raise _refusal(name, f"neither {' nor '.join(_STARTS)} is given")
    # Another release of transformers may choose a token in another way: that is no fault of theirs.
    attempt = _try if _fault(_try, module, {"decoder_start_token_id": 0}) is None else _make
    if _fault(attempt, module, found) is not None:
        for count, setting in enumerate(found, 1):
            fault = _fault(attempt, module, dict(list(found.items())[:count]))
            if fault is not None:
                why = " ".join(str(fault).split())[:_MAX_REASON]
                raise _refusal(name, f"{setting}: {why}") from fault
    return _make(module, found)


def _found(given: Any) -> dict[str, Any]:
    """Return those of the settings that are followed and say something."""
    found: dict[str, Any] = {each: getattr(given, each, None) for each in FOLLOWED}
    for start in _STARTS:  # ``generate`` takes a list of one, though only for one text at once
        if isinstance(found[start], list) and len(found[start]) == 1:
            [found[start]] = found[start]
    return {each: value for each, value in found.items() if value not in (None, [], {})}


def _refusal(name: str, why: str) -> MataError:
    return MataError(f"the generation settings of {name} cannot be used: {why}")


def stop_strings(module: Any, name: str) -> tuple[str, ...]:
    """Return the texts before which an answer ends. Raises ``MataError`` for what is no text."""
    found = module.generation_config.stop_strings or []
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not all(isinstance(each, str) and each for each in texts):
        raise _refusal(name, "stop_strings: must be texts")
    return tuple(texts)


def _fault(
    attempt: Callable[[Any, dict[str, Any]], Any], module: Any, settings: dict[str, Any]
) -> Exception | None:
    try:
        attempt(module, settings)
    except _FAULTS as error:
        return error
    return None


def _make(_module: Any, settings: dict[str, Any]) -> GenerationConfig:
    made: GenerationConfig = _settings(**settings)
    return made


def _try(module: Any, found: dict[str, Any]) -> None:
    """Choose the last token of the shortest text by the settings, as ``generate`` does."""
    is_beside_encoder = module.config.is_encoder_decoder
    # A picture and a question before a text are several tokens: only where there are none before
    # it does ``forced_bos_token_id`` have an effect.
    length = 1 if is_beside_encoder else 2
    settings = _settings(**found, max_length=length + 1)
    end_tokens(settings)
    words = module.config.get_text_config(decoder=True).vocab_size
    beams = settings.num_beams
    if beams is not None and not (isinstance(beams, int) and 1 <= beams < words):
        raise ValueError(f"must be a whole number from 1 to {words - 1}, got {beams!r}")
    first = torch.zeros(1, length, dtype=torch.long)
    # Of an encoder that reads pictures nothing can be repeated: its settings have no effect.
    is_of_pictures = module.main_input_name == "pixel_values"
    module._prepare_special_tokens(settings, kwargs_has_attention_mask=True, device="cpu")  # noqa: SLF001
    if is_beside_encoder:
        start = settings._decoder_start_token_tensor  # noqa: SLF001
        if start.numel() != 1 or not 0 <= start.item() < words:
            raise ValueError(f"must be a token from 0 to {words - 1}, got {start.tolist()}")
    choose = module._get_logits_processor(  # noqa: SLF001
        settings,
        input_ids_seq_length=length,
        encoder_input_ids=torch.zeros(1, 3, 1, 1) if is_of_pictures else first,
        device="cpu",
        model_kwargs={},
    )
    choose(first, torch.zeros(1, words))
