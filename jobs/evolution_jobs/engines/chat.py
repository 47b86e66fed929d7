"""What every engine does around the model: prompts that fit, tokens that end an answer, and answers as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..chat.chats import Chats
from ..chat.fitting import CHARACTERS, first_that_fits
from ..chat.thoughts import Thoughts, without_thoughts
from ..contract.errors import PermanentError
from ..contract.rows import Response
from .base import Request

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


UNLIMITED = 1 << 30
"""Positions of a model without a limit."""


class ChatTokens:
    """A model's chats as token ids: prompts on the way in, responses on the way out."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None, positions: int | None
    ) -> None:
        """`positions` is the longest sequence of prompt and answer; None if there is no limit."""
        self.chats = Chats.of(tokenizer)
        self.stops = stop_tokens(self.chats, tokenizer, generation)
        self._tokenizer = tokenizer
        self._thoughts = Thoughts(tokenizer.backend_tokenizer)
        self._positions = positions or UNLIMITED

    def prompt(self, request: Request) -> tuple[list[int], int]:
        """As `prompt_tokens`, which also says what it raises."""
        return prompt_tokens(self.chats, request, self._positions)

    def response(self, request: Request, sampled: Sequence[int], truncated_turns: int) -> Response:
        """The response of these tokens, the one that ended them included; `truncated_turns` comes from `prompt`."""
        stopped = sampled[-1] in self.stops
        spoken = sampled[:-1] if stopped else sampled
        said = self._thoughts.left_out(spoken)
        text = without_thoughts(self._tokenizer.decode(said, skip_special_tokens=True))
        return Response(
            id=request.id,
            text=text.rest.strip(),
            finish="stop" if stopped else "length",
            tokens=len(sampled),
            truncated_turns=truncated_turns,
            thought=text.thought or len(said) < len(spoken),
        )


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
