"""Sampling of text that follows a JSON schema: every token that would break the schema is masked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import xgrammar
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFERRED = 1e4
"""Added to a logit: larger than any difference between a model's logits, small enough for float32 to keep them apart."""


def quotes(vocabulary: Sequence[bytes]) -> list[int]:
    """The tokens that begin with a quotation mark: those that close a string."""
    return [index for index, text in enumerate(vocabulary) if text.startswith(b'"')]


def shortest(tokenizer: PreTrainedTokenizerBase, schema: dict[str, Any]) -> int:
    """Tokens of the shortest object that follows a schema, as the tokenizer spells it.

    Of a string with given values it counts the longest: once the model has begun a value, it has to end it.
    """
    values = {name: [*each.get("enum", ()), each.get("const", "a")] for name, each in schema["properties"].items()}
    longest = {name: max(each, key=len) for name, each in values.items()}
    text = json.dumps(longest, separators=(",", ":"), ensure_ascii=False)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


class Grammars:
    """Schemas compiled for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, stops: frozenset[int]) -> None:
        """`vocabulary` is the width of the model's logits, which may be larger than the tokenizer's vocabulary."""
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=sorted(stops))
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=torch.get_num_threads())
        self._tokenizer = tokenizer
        self._quotes = torch.tensor(quotes(info.decoded_vocab), dtype=torch.long)

    def follow(self, schema: dict[str, Any], limit: int) -> Following:
        """The state of one text that follows a schema and is complete within `limit` tokens."""
        grammar = self._compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
        needed = shortest(self._tokenizer, schema)
        # Reserve some more for the end-of-turn token and for keys that are spelled in other tokens than the tokenizer's.
        return Following(xgrammar.GrammarMatcher(grammar), limit - needed - needed // 2 - 1)

    def rule_out(self, logits: Tensor, texts: Sequence[tuple[int, Following]]) -> None:
        """Set the logits (rows, vocabulary) of tokens that break a row's grammar to -inf, in place.

        `texts` are the rows that follow a schema, with their places; the others may have any token.

        In a row that runs out of tokens, the tokens that close a string or spell a key in the fewest tokens are
        preferred, so that the object is complete and not cut off.
        """
        mask = xgrammar.allocate_token_bitmask(len(logits), logits.shape[-1])
        for row, text in texts:
            text.matcher.fill_next_token_bitmask(mask, row)
            if text.left <= 0:
                logits[row, self._quotes.to(logits.device)] += PREFERRED
                # A key can be spelled letter by letter, but the reserve was computed for the tokenizer's own spelling.
                if forced := text.matcher.find_jump_forward_string():
                    logits[row, self._tokenizer(forced, add_special_tokens=False)["input_ids"][0]] += 2 * PREFERRED
        xgrammar.apply_token_bitmask_inplace(logits, mask.to(logits.device))


class Following:
    """The state of a text in its grammar."""

    def __init__(self, matcher: xgrammar.GrammarMatcher, left: int) -> None:
        self.matcher = matcher
        self.left = left
        """Tokens left until the object must be closed."""

    def accept(self, token: int) -> None:
        """Advance by a token that was not masked."""
        self.left -= 1
        if not self.matcher.accept_token(token):
            raise RuntimeError(f"token {token} was sampled although the grammar rules it out")
