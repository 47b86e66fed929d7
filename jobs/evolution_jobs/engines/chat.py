"""Chats as tokens: the model's own template, histories that fit, and tokens that end a turn."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from ..contract.errors import PermanentError
from ..contract.rows import Message
from .base import Request

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, request: Request, positions: int) -> tuple[list[int], int]:
    """The prompt's tokens, and how many of its oldest turns were left out so that prompt and answer fit.

    Turns are left out in pairs after the system message, so that the history still begins with the user. `positions` is
    the longest sequence that the model supports.

    Raises PermanentError (`PromptTooLong`) if not even the last `request.keep` messages fit.
    """
    limit = min(request.max_prompt_tokens, positions - request.max_new_tokens)
    system = [message for message in request.messages[:1] if message["role"] == "system"]
    turns = request.messages[len(system) :]

    def encoded(dropped: int) -> list[int]:
        return encode(tokenizer, [*system, *turns[dropped:]])

    tokens = encoded(0)
    if len(tokens) <= limit:
        return tokens, 0
    droppable = range(0, len(turns) - request.keep + 1, 2)
    first = bisect_left(droppable, True, key=lambda dropped: len(encoded(dropped)) <= limit)
    if first == len(droppable):
        length = len(encoded(droppable[-1]))
        raise PermanentError(
            "PromptTooLong",
            f"row {request.id}: without any earlier turns the prompt still has {length} tokens, and {limit} fit; "
            "raise maxPromptTokens (within the model's context length) or leave the dialogue out",
        )
    return encoded(droppable[first]), droppable[first]


def encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The chat's tokens, up to the point where the assistant's next message begins.

    Raises PermanentError (`ChatTemplate`) if the model's template refuses these roles.
    """
    try:
        tokens = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
    except TemplateError as error:
        raise PermanentError(
            "ChatTemplate", f"the model's chat template refuses a system message or alternating turns: {error}"
        ) from error
    return list(tokens)


def stop_tokens(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> frozenset[int]:
    """Every token that ends an answer: the end of sequence of the tokenizer and of the generation config, and the
    special token that the chat template writes after an assistant's message (a base model's config may lack it).
    """
    configured = getattr(generation, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    asked: list[Message] = [{"role": "user", "content": "a"}]
    before = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    answered = [*asked, {"role": "assistant", "content": "b"}]
    _, _, after = tokenizer.apply_chat_template(answered, tokenize=False).removeprefix(before).partition("b")
    ending = tokenizer(after, add_special_tokens=False)["input_ids"][:1]
    stops.update(token for token in ending if token in tokenizer.all_special_ids)
    return frozenset(token for token in stops if token is not None)
