"""A reward model that scores answers with transformers, in this process. Only safetensors; no code of the model is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from ..chat.chats import Chats
from ..chat.fitting import CHARACTERS, first_that_fits
from ..contract.errors import PermanentError
from ..contract.rows import Message
from ..contract.settings import Precision, RewardSettings
from ..models.load import load_tokenizer, locate, placement, require_weights, unloadable
from ..preference.prompts import answer_messages
from ..preference.ranking import Scored, ToRank

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCHES = 4
"""Contexts are scored in groups of about so many batches. Within a group, answers of like length share a batch."""


class RewardModel:
    """A `Ranker`: one number for each conversation with an answer, as the reward model's own template writes them.

    The product's system message is left out: a reward model is trained on what is said, and would reward its words.
    """

    def __init__(self, model: PreTrainedModel, chats: Chats, settings: RewardSettings) -> None:
        self._model = model
        self._chats = chats
        self._settings = settings

    @classmethod
    def load(cls, reference: Path | str, precision: Precision, settings: RewardSettings) -> RewardModel:
        """A reward model's directory or reference, on the GPU if there is one. Raises as `models.load.load_model` does."""
        location = locate(reference)
        if location.directory:
            require_weights(location.directory)
        device, dtype = placement(precision)
        chats = Chats.of(load_tokenizer(reference))
        try:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                location.name,
                revision=location.revision or "main",
                dtype=dtype,
                device_map={"": device} if device.type == "cuda" else None,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except torch.OutOfMemoryError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            raise unloadable(location, "reward model", error) from error
        # Without this check, a missing head would be drawn at random, with only a warning.
        if missing := sorted(info["missing_keys"]):
            raise PermanentError("ModelIncomplete", f"{location.name} lacks {len(missing)} weights, first {missing[0]}")
        model.config.use_cache = False
        return cls(model.eval(), chats, settings)

    def scores(self, asked: Sequence[ToRank]) -> Iterator[list[Scored]]:
        """The scores of each context; a list each time that about four batches are scored.

        Raises PermanentError (`RewardModelUnfit`) if a score is no number.
        """
        waiting = iter(asked)
        answers = max((len(each.answers) for each in asked), default=1)
        while group := list(islice(waiting, max(1, BATCHES * self._settings.batch_size // answers))):
            yield self._scored(group)

    def _scored(self, group: Sequence[ToRank]) -> list[Scored]:
        fitted = {each.id: self._fitted(each) for each in group}
        rows = [
            (each.id, name, ids)
            for each in group
            for name, ids in zip(each.answers, fitted[each.id][0] or [], strict=False)
        ]
        rows.sort(key=lambda row: -len(row[2]))
        given: dict[str, dict[str, float]] = {each.id: {} for each in group}
        for start in range(0, len(rows), self._settings.batch_size):
            batch = rows[start : start + self._settings.batch_size]
            for (id_, name, _), score in zip(batch, self._logits([ids for _, _, ids in batch]), strict=True):
                if not math.isfinite(score):
                    raise PermanentError(
                        "RewardModelUnfit",
                        f"reward.model: it scores an answer to {id_} with {score}: set reflection.precision: float32, or "
                        "take another reward model",
                    )
                given[id_][name] = score
        return [self._said(each, given[each.id], *fitted[each.id]) for each in group]

    def _said(self, asked: ToRank, scores: dict[str, float], fitting: list[list[int]] | None, dropped: int) -> Scored:
        if fitting is None:
            limit = self._settings.max_length
            fault = f"the last turn and an answer have more than {limit} tokens of the reward model (reward.maxLength)"
            return Scored(asked.id, fault=fault)
        return Scored(asked.id, {name: scores[name] for name in asked.answers}, truncated=dropped > 0)

    def _fitted(self, asked: ToRank) -> tuple[list[list[int]] | None, int]:
        """The token ids of each answer after the same history, and how many of its oldest turns were left out; None for the
        ids if an answer does not fit even after the last turn alone.
        """
        said = answer_messages(asked.turns)[1:]
        answers: list[Message] = [{"role": "assistant", "content": text} for text in asked.answers.values()]
        limit = self._settings.max_length

        def encoded(dropped: int) -> list[list[int]]:
            return [self._chats.ids([*said[dropped:], answer]) for answer in answers]

        droppable = range(0, len(said), 2)  # the history still begins with the seeker
        longest = max(answers, key=lambda answer: len(answer["content"]))
        short = sum(len(message["content"]) for message in [*said, longest]) <= CHARACTERS * limit
        first = first_that_fits(len(droppable), lambda at: max(map(len, encoded(droppable[at]))) <= limit, short)
        return (None, 0) if first == len(droppable) else (encoded(droppable[first]), droppable[first])

    @torch.inference_mode()
    def _logits(self, rows: Sequence[list[int]]) -> list[float]:
        """The only logit of each row of token ids."""
        width = max(map(len, rows))
        config = self._model.config.get_text_config()
        if (pad := config.pad_token_id) is None:
            # Models take the last token that is no padding. One that a row may end with would be taken for padding.
            said = {id_ for ids in rows for id_ in ids}
            pad = next(id_ for id_ in range(config.vocab_size) if id_ not in said)
        device = self._model.device
        tokens = torch.tensor([[*ids, *[pad] * (width - len(ids))] for ids in rows], device=device)
        mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in rows], device=device)
        stated, config.pad_token_id = config.pad_token_id, pad
        try:
            logits = self._model(input_ids=tokens, attention_mask=mask).logits
        finally:
            config.pad_token_id = stated
        scores: list[float] = logits.float()[:, 0].tolist()
        return scores
