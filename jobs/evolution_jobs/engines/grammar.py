"""Text that follows a JSON schema, by ruling out every token that would break it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import xgrammar
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PREFERRED = 1e4
"""Added to a logit: more than any model's logits differ, less than what float32 still resolves."""


class Grammars:
    """Schemas compiled for one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, stops: frozenset[int]) -> None:
        """`vocabulary` is the width of the model's logits, which may exceed the tokenizer's."""
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=sorted(stops))
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=torch.get_num_threads())
        self._tokenizer = tokenizer
        self._quotes = torch.tensor(
            [index for index, text in enumerate(info.decoded_vocab) if text.startswith(b'"')], dtype=torch.long
        )

    def follow(self, schema: dict[str, Any], limit: int) -> Following:
        """One text's way through a schema: an object of bounded strings, closed within `limit` tokens."""
        grammar = self._compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
        shortest = json.dumps(dict.fromkeys(schema["properties"], "a"), separators=(",", ":"))
        needed = len(self._tokenizer(shortest, add_special_tokens=False)["input_ids"])
        # A spelling of the keys other than the tokenizer's own costs a few more, as does the end-of-turn token.
        return Following(xgrammar.GrammarMatcher(grammar), limit - needed - needed // 2 - 1)

    def rule_out(self, logits: Tensor, texts: Sequence[Following]) -> None:
        """Set the logits (rows, vocabulary) of tokens that break a row's grammar to -inf, in place.

        A row that is running out of tokens prefers to close its strings and to spell its keys in the fewest tokens: its
        object ends rather than being cut off.
        """
        mask = xgrammar.allocate_token_bitmask(len(texts), logits.shape[-1])
        for row, text in enumerate(texts):
            text.matcher.fill_next_token_bitmask(mask, row)
            if text.left <= 0:
                logits[row, self._quotes.to(logits.device)] += _PREFERRED
                # A key can be spelled letter by letter; the tokenizer's own spelling is what was reckoned with.
                if forced := text.matcher.find_jump_forward_string():
                    logits[row, self._tokenizer(forced, add_special_tokens=False)["input_ids"][0]] += 2 * _PREFERRED
        xgrammar.apply_token_bitmask_inplace(logits, mask.to(logits.device))


class Following:
    """Where a text is in its grammar."""

    def __init__(self, matcher: xgrammar.GrammarMatcher, left: int) -> None:
        self.matcher = matcher
        self.left = left
        """Tokens until the object must be brought to its end."""

    def accept(self, token: int) -> None:
        """Go on by a token that was not ruled out."""
        self.left -= 1
        if not self.matcher.accept_token(token):
            raise RuntimeError(f"token {token} was sampled although the grammar rules it out")
