"""The inference parameters of the API: definition, parsing, error messages."""

from mataserver.params.parsing import (
    build,
    check_ceiling,
    check_defaults,
    check_object,
    configured,
    parse,
    parse_text,
    split_prompts,
)
from mataserver.params.table import (
    OLD_NAMES,
    UPLOAD_FIELDS,
    ApiParams,
    Confidence,
    Detail,
    Language,
    MaxTokens,
    OcrType,
    OutputMode,
    Params,
    Temperature,
    Text,
    TopK,
)
from mataserver.params.text_values import from_text, plain_number
from mataserver.params.wording import describe

__all__ = [
    "OLD_NAMES",
    "UPLOAD_FIELDS",
    "ApiParams",
    "Confidence",
    "Detail",
    "Language",
    "MaxTokens",
    "OcrType",
    "OutputMode",
    "Params",
    "Temperature",
    "Text",
    "TopK",
    "build",
    "check_ceiling",
    "check_defaults",
    "check_object",
    "configured",
    "describe",
    "from_text",
    "parse",
    "parse_text",
    "plain_number",
    "split_prompts",
]
