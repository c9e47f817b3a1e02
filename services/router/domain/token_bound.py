# SPDX-License-Identifier: Apache-2.0
"""
Upper bounds and estimates of token counts, without any provider's tokenizer.

1. The bound is never too low: the tokenizers of all providers work on bytes or fall back to
   them, so text has at most as many tokens as UTF-8 bytes. Messages, tools and images add a
   stated number each.
2. The lower bound is never too high: no published tokenizer puts two words that a space parts into
   one token, but SuperBPE, which puts four at most (https://arxiv.org/abs/2503.13423). It stands
   for the tokenizers that their makers keep to themselves.
3. The estimate, four bytes a token, is used only where a provider reported no usage, and is
   marked so (https://help.openai.com/en/articles/4936856).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from services.router.domain.text import (
    ImagePart,
    ImageURLPart,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolResult,
)

if TYPE_CHECKING:
    from services.router.domain.request import TextInput
    from services.router.domain.text import Part

MESSAGE_TOKENS_MAX = 16
"""What a provider wraps one message in, at most."""
CALL_TOKENS_MAX = 1_024
"""What a provider adds to a call by itself: its preamble for tools and schemas."""
BYTES_PER_TOKEN_ESTIMATE = 4
WORDS_PER_TOKEN_MAX = 4
"""Words in one token, at most."""
_ONE_WORD_A_TOKEN = frozenset({"openai", "google", "deepseek"})
"""Vendors whose published tokenizers split text at spaces before anything else:
https://github.com/openai/tiktoken , https://github.com/google/gemma_pytorch (Gemini's own, too:
https://github.com/googleapis/python-genai/blob/main/google/genai/local_tokenizer.py ),
https://api-docs.deepseek.com/quick_start/token_usage"""
_WORD_BYTES_MIN = 2
"""A word and the space after it."""


def input_tokens_max(text_input: TextInput, *, image_tokens_max: int) -> int:
    """
    Give a number of input tokens that the call cannot exceed.
    """
    parts = [part for message in text_input.messages for part in message.parts]
    images = sum(isinstance(part, ImagePart | ImageURLPart) for part in parts)
    wrapped = (len(text_input.messages) + len(text_input.tools) + 1) * MESSAGE_TOKENS_MAX
    return text_input.text_bytes + images * image_tokens_max + wrapped + CALL_TOKENS_MAX


def input_tokens_min(text_input: TextInput, *, vendor: str, above: int) -> int:
    """
    Give a number of input tokens that the call has at least.

    Args:
        text_input: What would be sent.
        vendor: Whose tokenizer counts.
        above: Zero may be given where there cannot be more than so many: most calls are short, and
            their words need not be counted.
    """
    if text_input.text_bytes <= above * _WORD_BYTES_MIN:
        return 0
    said = (part for message in text_input.messages for part in message.parts)
    texts = (text_input.system, *(_prose(part) for part in said))
    words = sum(bool(word.strip()) for text in texts for word in text.split(" "))
    return words if vendor in _ONE_WORD_A_TOKEN else words // WORDS_PER_TOKEN_MAX


def input_tokens_estimate(text_input: TextInput) -> int:
    """
    Estimate the input tokens of a call whose provider reported none.
    """
    return tokens_estimate(text_input.text_bytes)


def tokens_estimate(size_bytes: int) -> int:
    """
    Estimate the tokens of so many bytes of text, rounded up.
    """
    return -(-size_bytes // BYTES_PER_TOKEN_ESTIMATE)


def text_bytes(text_input: TextInput) -> int:
    """
    Count the UTF-8 bytes of everything in a call that is text.
    """
    size = _size(text_input.system)
    for tool in text_input.tools:
        size += _size(tool.name) + _size(tool.description) + _size(tool.parameters_json)
    if text_input.response_schema is not None:
        size += _size(text_input.response_schema.name)
        size += _size(text_input.response_schema.schema_json)
    return size + sum(_part_bytes(p) for m in text_input.messages for p in m.parts)


def _part_bytes(part: Part) -> int:
    match part:
        case TextPart():
            return _size(part.text)
        case ReasoningPart():
            return _size(part.text) + _size(part.signature)
        case ToolCall():
            return _size(part.name) + _size(part.arguments) + _size(part.signature)
        case ToolResult():
            return _size(part.content)
        case ImagePart() | ImageURLPart():
            return 0
        case _:
            assert_never(part)


def _prose(part: Part) -> str:
    """
    Give what every provider passes on word for word; schemas and calls it may write anew.
    """
    match part:
        case TextPart():
            return part.text
        case ToolResult():
            return part.content
        case _:
            return ""


def _size(text: str) -> int:
    return len(text.encode())
