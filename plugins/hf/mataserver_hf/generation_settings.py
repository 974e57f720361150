"""What of a checkpoint's settings for generating text is followed.

They are those of ``generation_config.json``, or else of ``config.json``. The rest would choose
another search, end a text by the clock, fail for want of what is not here, or cost memory only.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from mataserver import MataError
from mataserver_hf.network import end_tokens

_settings: Any = GenerationConfig  # which transformers does not type
FOLLOWED = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
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

In the order in which they are tried: the others need the tokens.
"""
_FAULTS = (ValueError, TypeError, LookupError, RuntimeError, AttributeError, OverflowError)
_MAX_REASON = 300


def followed(module: Any, name: str) -> GenerationConfig:
    """Return the settings of ``module`` that are followed; an empty list says nothing.

    Raises ``MataError`` for one that would fail each request, with its name.
    """
    given = module.generation_config
    settings: dict[str, Any] = {}
    for setting in FOLLOWED:
        value = getattr(given, setting, None)
        if value is None or value in ([], {}):
            continue
        settings[setting] = value
        try:
            _try(module, _settings(**settings, max_length=2))
        except _FAULTS as error:
            why = " ".join(str(error).split())[:_MAX_REASON]
            raise MataError(
                f"the generation settings of {name} cannot be used: {setting}: {why}"
            ) from error
    chosen: GenerationConfig = _settings(**settings)
    return chosen


def stop_strings(module: Any, name: str) -> tuple[str, ...]:
    """Return the texts before which an answer ends. Raises ``MataError`` for what is no text."""
    found = module.generation_config.stop_strings or []
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not all(isinstance(each, str) and each for each in texts):
        raise MataError(
            f"the generation settings of {name} cannot be used: stop_strings: must be texts"
        )
    return tuple(texts)


def _try(module: Any, settings: GenerationConfig) -> None:
    """Choose a token by the settings, as ``generate`` does after a prompt of one token."""
    end_tokens(settings)
    words = module.config.get_text_config(decoder=True).vocab_size
    for value, least in ((settings.num_beams, 1), (settings.decoder_start_token_id, 0)):
        if value is not None and not (type(value) is int and least <= value < words):
            raise ValueError(f"must be a whole number from {least} to {words - 1}, got {value!r}")
    first = torch.zeros(1, 1, dtype=torch.long)
    module._prepare_special_tokens(settings, kwargs_has_attention_mask=True, device="cpu")  # noqa: SLF001
    choose = module._get_logits_processor(  # noqa: SLF001
        settings, input_ids_seq_length=1, encoder_input_ids=first, device="cpu", model_kwargs={}
    )
    choose(first, torch.zeros(1, words))
