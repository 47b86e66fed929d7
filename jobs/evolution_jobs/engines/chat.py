"""Prompts that fit, and tokens that end an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..chat.chats import Chats
from ..chat.fitting import CHARACTERS, first_that_fits
from ..contract.errors import PermanentError
from .base import Request

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


def prompt_tokens(chats: Chats, request: Request, positions: int) -> tuple[list[int], int]:
    """The prompt's tokens, and how many of its oldest turns were left out so that prompt and answer fit.

    Turns are left out in pairs after the system message, so that the history still begins with the user. `positions` is
    the longest sequence that the model supports.

    Raises PermanentError (`PromptTooLong`) if not even the last `request.keep` messages fit, (`ChatTemplate`) if the
    model's template refuses the chat.
    """
    limit = min(request.max_prompt_tokens, positions - request.max_new_tokens)
    system = [message for message in request.messages[:1] if message["role"] == "system"]
    turns = request.messages[len(system) :]

    def encoded(dropped: int) -> list[int]:
        return chats.prompt([*system, *turns[dropped:]])

    droppable = range(0, len(turns) - request.keep + 1, 2)
    short = sum(len(message["content"]) for message in turns) <= CHARACTERS * limit
    first = first_that_fits(len(droppable), lambda at: len(encoded(droppable[at])) <= limit, short)
    if first == len(droppable):
        length = len(encoded(droppable[-1]))
        raise PermanentError(
            "PromptTooLong",
            f"row {request.id}: without any earlier turns the prompt still has {length} tokens, and {limit} fit; "
            "raise maxPromptTokens (within the model's context length) or leave the dialogue out",
        )
    return encoded(droppable[first]), droppable[first]


def stop_tokens(
    chats: Chats, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None
) -> frozenset[int]:
    """Every token that ends an answer: the end of sequence of the tokenizer and of the generation config, and the
    control token that the chat template writes after an assistant's message (a base model's config may lack it).
    """
    configured = getattr(generation, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    return frozenset(token for token in stops | {chats.end_of_turn} if token is not None)
