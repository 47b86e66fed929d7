"""What training is made of: tokens and labels, the order of rows, the forward pass, checkpoints."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from evolution_jobs.chat.chats import Chats
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.rows import Context, Instruction, Pair, Turn
from evolution_jobs.metrics.perplexity import Passage
from evolution_jobs.models.load import load_tokenizer
from evolution_jobs.preference.prompts import answer_messages
from evolution_jobs.stages.jsonl import read_rows
from evolution_jobs.training import forward
from evolution_jobs.training.encoding import IGNORED, ChatEncoder, Example
from evolution_jobs.training.forward import FIELDS, Layout, best_layout, spare_forward
from evolution_jobs.training.layout import branched
from evolution_jobs.training.schedule import (
    Validations,
    evaluation_interval,
    optimiser_steps,
    rows_a_pass,
    training_order,
    warmup_steps,
)
from evolution_jobs.training.trainer import CURVE_POINTS, thinned
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerBase
from trl.trainer.utils import add_fused_lm_head

from tests.support.stages import token_batches
from tests.support.stages.chat_families import FAMILIES, save_tokenizer
from tests.support.stages.tiny_model import DIALOGUES, dialogue, tiny_model, write_rows
from tests.support.stages.workspace import LocalWorkspace

pytestmark = pytest.mark.model

END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(small_model)


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerBase) -> ChatEncoder:
    return ChatEncoder(tokenizer, 2048)


def learnt(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[str]:
    """The runs of learnt tokens as text."""
    pairs = zip(example.input_ids, example.labels, strict=True)
    runs = itertools.groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    return [tokenizer.decode([id_ for id_, _ in run]) for wanted, run in runs if wanted]


def rendered(tokenizer: PreTrainedTokenizerBase, turns: list[Turn], *, answer: bool = False) -> list[int]:
    ids = tokenizer.apply_chat_template(
        answer_messages(turns), tokenize=True, add_generation_prompt=answer, return_dict=False
    )
    return list(ids)


class TestDialogues:
    def test_the_loss_is_on_the_supporters_turns_with_their_end_and_on_nothing_else(
        self, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder
    ) -> None:
        encoded = encoder.dialogues(DIALOGUES)
        assert len(encoded.rows) == len(DIALOGUES)
        for example, source in zip(encoded.rows, DIALOGUES, strict=True):
            said = [turn.text + END for turn in source.turns if turn.role == "supporter"]
            assert learnt(tokenizer, example) == said
            assert example.turns == len(said)
            assert all(label in (IGNORED, id_) for id_, label in zip(example.input_ids, example.labels, strict=True))

    def test_the_sequence_is_what_the_template_gives_and_generation_sees_its_beginnings(
        self, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder
    ) -> None:
        turns = DIALOGUES[0].turns
        [example] = encoder.dialogues([DIALOGUES[0]]).rows
        assert example.input_ids == rendered(tokenizer, turns)
        for place, turn in enumerate(turns):
            if turn.role == "supporter":
                prompt = rendered(tokenizer, turns[:place], answer=True)
                assert example.input_ids[: len(prompt)] == prompt
                assert example.labels[len(prompt) - 1] == IGNORED
                assert example.labels[len(prompt)] != IGNORED

    @settings(max_examples=40)
    @given(st.lists(st.text(min_size=1, max_size=40), min_size=2, max_size=6))
    def test_any_text_is_learnt_as_it_stands(
        self, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder, texts: list[str]
    ) -> None:
        said = [" ".join(text.split()) or "." for text in texts]
        [example] = encoder.dialogues([dialogue(*said)]).rows
        # The vocabulary lacks some bytes of characters that nobody has been given yet, so not every text survives.
        survived = [tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in said[1::2]]
        assert learnt(tokenizer, example) == [text + END for text in survived]

    def test_what_follows_the_supporters_last_turn_is_left_out(
        self, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder
    ) -> None:
        [example] = encoder.dialogues([dialogue("Hello, I am sad.", "Why?", "I do not know.")]).rows
        assert "I do not know" not in tokenizer.decode(example.input_ids)

    def test_a_dialogue_without_the_supporter_is_dropped_and_counted(self, encoder: ChatEncoder) -> None:
        encoded = encoder.dialogues([dialogue("Is anybody here?"), DIALOGUES[0]])
        assert (len(encoded.rows), encoded.silent, encoded.too_long) == (1, 1, 0)

    def test_a_long_dialogue_loses_its_oldest_exchanges(self, tokenizer: PreTrainedTokenizerBase) -> None:
        long = dialogue(*(f"{word} {number}" for number in range(30) for word in ("Seeker", "Supporter")))
        encoded = ChatEncoder(tokenizer, 256).dialogues([long, DIALOGUES[0]])
        shortened, whole = encoded.rows
        assert encoded.truncated == 1
        assert shortened.tokens <= 256
        kept = learnt(tokenizer, shortened)
        assert kept[-1] == "Supporter 29" + END
        assert kept[0] == f"Supporter {30 - len(kept)}{END}"
        text = tokenizer.decode(shortened.input_ids)
        assert f"Seeker {30 - len(kept)}" in text
        assert f"Seeker {29 - len(kept)}" not in text
        # One exchange more would not have fitted.
        longer = rendered(tokenizer, long.turns[-2 * (len(kept) + 1) :])
        assert len(longer) > 256
        assert whole.turns == 2

    def test_a_last_exchange_that_does_not_fit_is_dropped_and_counted(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoded = ChatEncoder(tokenizer, 128).dialogues([dialogue("Hi, I am sad.", "word " * 200)])
        assert (encoded.rows, encoded.too_long, encoded.truncated) == ([], 1, 0)


class TestInstructions:
    def test_the_response_is_learnt(self, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder) -> None:
        sample = Instruction(id="1", prompt="Name a colour.", response="Blue.")
        [example] = encoder.instructions([sample]).rows
        assert learnt(tokenizer, example) == ["Blue." + END]
        assert "Name a colour." in tokenizer.decode(example.input_ids)

    def test_one_that_does_not_fit_is_dropped_and_counted(self, tokenizer: PreTrainedTokenizerBase) -> None:
        long = Instruction(id="1", prompt="word " * 300, response="Blue.")
        assert ChatEncoder(tokenizer, 128).instructions([long]).too_long == 1


class TestPairs:
    PAIR = Pair(
        id="p",
        turns=[Turn(role="seeker", text="I am sad.")],
        chosen=" What makes you sad? ",
        rejected="OK.",
        source="self",
    )

    def test_prompt_and_answers(self, tokenizer: PreTrainedTokenizerBase, encoder: ChatEncoder) -> None:
        [preference] = encoder.pairs([self.PAIR]).rows
        assert preference.prompt_ids == rendered(tokenizer, self.PAIR.turns, answer=True)
        assert tokenizer.decode(preference.chosen_ids) == "What makes you sad?" + END
        assert tokenizer.decode(preference.rejected_ids) == "OK." + END

    def test_a_long_prompt_loses_its_oldest_turns_for_both_answers(self, tokenizer: PreTrainedTokenizerBase) -> None:
        turns = dialogue(*(f"Turn {number}" for number in range(61))).turns
        pair = self.PAIR.model_copy(update={"turns": turns, "rejected": "word " * 60})
        encoded = ChatEncoder(tokenizer, 256).pairs([pair])
        [preference] = encoded.rows
        assert encoded.truncated == 1
        assert preference.length <= 256
        assert "Turn 60" in tokenizer.decode(preference.prompt_ids)
        assert "Turn 0<" not in tokenizer.decode(preference.prompt_ids)

    def test_a_pair_whose_answer_does_not_fit_is_dropped_and_counted(self, tokenizer: PreTrainedTokenizerBase) -> None:
        pair = self.PAIR.model_copy(update={"rejected": "word " * 200})
        encoded = ChatEncoder(tokenizer, 128).pairs([pair, self.PAIR])
        assert (len(encoded.rows), encoded.too_long) == (1, 1)


class TestAnswers:
    def test_they_are_encoded_as_a_pairs_answers_are(self, encoder: ChatEncoder) -> None:
        pair = TestPairs.PAIR
        context = Context(id="c", dialogue="d", turns=pair.turns, human=pair.chosen)
        [preference] = encoder.pairs([pair]).rows
        assert encoder.answers([context]) == {"c": Passage(preference.prompt_ids, preference.chosen_ids)}

    def test_one_that_does_not_fit_is_left_out(self, tokenizer: PreTrainedTokenizerBase) -> None:
        turns = TestPairs.PAIR.turns
        contexts = [
            Context(id=id_, dialogue="d", turns=turns, human=human)
            for id_, human in (("a", "word " * 200), ("b", "OK."))
        ]
        assert list(ChatEncoder(tokenizer, 128).answers(contexts)) == ["b"]


class TestOrder:
    lengths = st.lists(st.integers(1, 500), min_size=1, max_size=80)

    @given(lengths, st.sampled_from([0.2, 0.5, 1, 1.5, 2, 3]), st.integers(1, 8), st.integers(0, 9))
    def test_every_epoch_visits_every_row_once(self, lengths: list[int], epochs: float, batch: int, seed: int) -> None:
        order = training_order(lengths, epochs, batch, seed)
        rows = len(lengths)
        assert len(order) == max(1, round(epochs * rows))
        for start in range(0, len(order), rows):
            epoch = order[start : start + rows]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(rows))
        assert order == training_order(lengths, epochs, batch, seed)

    def test_no_rows_no_order(self) -> None:
        assert training_order([], 2, 4, 0) == []

    def test_seeds_and_epochs_differ(self) -> None:
        lengths = list(range(50))
        first = training_order(lengths, 2, 1, seed=0)
        assert first[:50] != first[50:]
        assert first != training_order(lengths, 2, 1, seed=1)

    def test_rows_of_like_length_share_a_batch_in_every_epoch(self) -> None:
        # 61 rows in batches of 4: the second epoch begins inside a batch.
        lengths = [10, 1000] * 30 + [10]
        order = training_order(lengths, 3, 4, seed=0)
        batches = [[lengths[row] for row in order[start : start + 4]] for start in range(0, len(order), 4)]
        assert sum(len(set(batch)) > 1 for batch in batches) <= 6

    @pytest.mark.parametrize(
        ("rows", "batch", "accumulation", "steps"), [(1, 4, 2, 1), (8, 4, 2, 1), (9, 4, 2, 2), (16, 4, 2, 2)]
    )
    def test_steps(self, rows: int, batch: int, accumulation: int, steps: int) -> None:
        assert optimiser_steps(rows, batch, accumulation) == steps
        assert optimiser_steps(rows, 1, batch * accumulation) == steps

    @pytest.mark.parametrize(
        ("ratio", "steps", "expected"), [(0.03, 100, 3), (0.03, 10, 0), (1, 10, 10), (0.5, 2, 1), (1, 1, 0), (0, 1, 0)]
    )
    def test_warm_up(self, ratio: float, steps: int, expected: int) -> None:
        assert warmup_steps(ratio, steps) == expected

    def test_the_validation_interval_is_at_least_one_step(self) -> None:
        assert evaluation_interval(100, 2, 2) == 25
        assert evaluation_interval(1, 2, 4) == 1


class TestValidations:
    @pytest.mark.parametrize(
        ("losses", "patience", "best", "exhausted"),
        [
            ([], 3, None, False),
            ([2.0], 1, 10, False),
            ([2.0, 2.0], 1, 10, True),
            ([2.0, 1.0, 1.5, 1.2], 3, 20, False),
            ([2.0, 1.0, 1.5, 1.2, 1.1], 3, 20, True),
            ([2.0, 3.0, 4.0, 5.0], 0, 10, False),
        ],
    )
    def test_patience(self, losses: list[float], patience: int, best: int | None, exhausted: bool) -> None:
        validations = Validations([(10 * place, loss) for place, loss in enumerate(losses, 1)], patience)
        assert validations.best_step == best
        assert validations.exhausted is exhausted
        assert validations.measured(10) is bool(losses)
        assert not validations.measured(11)


class TestForward:
    """The same figures and gradients as trl's own pass."""

    @pytest.fixture(scope="class")
    def model(self, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> LlamaForCausalLM:
        directory = tiny_model(small_model, tmp_path_factory.mktemp("model"))
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        add_fused_lm_head(model, outputs=FIELDS)
        return model

    @staticmethod
    def figures(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> tuple[Any, torch.Tensor]:
        model.zero_grad()
        output = model(**batch, fused_lm_head=True)
        weights = torch.arange(1.0, 1 + len(batch["labels"]))
        (output.log_probs.sum(1) * weights).sum().backward()
        return output, torch.cat([weight.grad.flatten() for weight in model.model.layers.parameters()])

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("pairs", [[(7, 3, 5)], [(7, 3, 5), (20, 1, 1), (9, 12, 2)]])
    def test_it_gives_what_trl_gives(
        self, model: LlamaForCausalLM, pairs: list[tuple[int, int, int]], shared: bool, packed: bool
    ) -> None:
        batch, own = token_batches.batch(pairs), model.forward
        expected, gradient = self.figures(model, batch)
        spare_forward(model, Layout(shared, packed))
        try:
            output, spared = self.figures(model, batch)
        finally:
            model.forward = own
        for name in FIELDS:
            torch.testing.assert_close(getattr(output, name).float(), getattr(expected, name).float())
        torch.testing.assert_close(output.label_mask, expected.label_mask)
        torch.testing.assert_close(spared, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))

    def test_a_row_of_several_turns(self, model: LlamaForCausalLM) -> None:
        batch, own = token_batches.batch([(7, 9, 4)]), model.forward
        batch["labels"][:, 9:11] = IGNORED
        expected, _ = self.figures(model, batch)
        spare_forward(model, Layout())
        try:
            output, _ = self.figures(model, batch)
        finally:
            model.forward = own
        torch.testing.assert_close(output.log_probs, expected.log_probs)

    def test_prompts_are_shared_where_that_changes_nothing(self, model: LlamaForCausalLM) -> None:
        batch = token_batches.batch([(20, 8, 8)])
        assert best_layout(model, batch["input_ids"], batch["labels"], pairs=True) == Layout(shared=True)

    def test_not_where_one_branch_sees_the_other(
        self, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forward, "_mask", lambda *_: None)
        batch = token_batches.batch([(20, 8, 8)])
        assert best_layout(model, batch["input_ids"], batch["labels"], pairs=True) == Layout()

    @pytest.mark.parametrize(
        ("name", "value"),
        [("sliding_window", 8), ("layer_types", ["sliding_attention", "full_attention"]), ("rope_parameters", None)],
    )
    def test_nor_where_the_architecture_is_not_known_to_be_fit(
        self, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, name: str, value: object
    ) -> None:
        monkeypatch.setattr(model.config, name, value, raising=False)
        batch = token_batches.batch([(20, 8, 8)])
        assert best_layout(model, batch["input_ids"], batch["labels"], pairs=True) == Layout()

    def test_a_pair_with_two_prompts_is_a_fault(self, model: LlamaForCausalLM) -> None:
        batch = token_batches.batch([(20, 8, 8)])
        batch["input_ids"][0, 3] += 1
        with pytest.raises(ValueError, match="different prompts"):
            branched(batch["input_ids"], batch["labels"])


class TestLayout:
    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("packed", [False, True])
    def test_the_masks_of_both_attention_functions_agree(self, shared: bool, packed: bool) -> None:
        """sdpa takes the dense mask, FlexAttention the mask of blocks and the rule within a block."""
        given = token_batches.batch([(40, 100, 70), (150, 3, 60)])
        layout = Layout(shared, packed)
        placed = layout.placed(layout.trees(given["input_ids"], given["labels"]))
        rows, tokens = placed.ids.shape
        query, key, value = torch.randn(3, rows, 2, tokens, 16, generator=torch.Generator().manual_seed(0))
        dense = scaled_dot_product_attention(query, key, value, attn_mask=placed.dense_mask())
        torch.testing.assert_close(flex_attention(query, key, value, block_mask=placed.block_mask()), dense)

    def test_packed_rows_have_no_padding_but_the_last_block(self) -> None:
        given = token_batches.batch([(40, 100, 70), (150, 3, 60)])
        layout = Layout(shared=True, packed=True)
        trees = layout.trees(given["input_ids"], given["labels"])
        placed = layout.placed(trees)
        assert [len(tree.ids) for tree in trees] == [40 + 99 + 69, 150 + 2 + 59]
        assert placed.ids.shape == (1, 512)
        assert int((placed.trees >= 0).sum()) == 208 + 211


class TestRowsAPass:
    @given(
        st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=60),
        st.integers(1, 6),
        st.integers(1, 8),
    )
    def test_a_joined_pass_needs_no_more_room_than_the_settings_allow_for(
        self, rows: list[tuple[int, int]], batch: int, accumulation: int
    ) -> None:
        packed, padded = [length for length, _ in rows], [length + more for length, more in rows]
        size = rows_a_pass(packed, padded, batch, accumulation)
        assert size % batch == 0
        assert (batch * accumulation) % size == 0
        largest = max(len(padded[at : at + batch]) * max(padded[at : at + batch]) for at in range(0, len(rows), batch))
        assert max(sum(packed[at : at + size]) for at in range(0, len(rows), size)) <= largest

    def test_pairs_that_share_prompts_are_joined_and_long_dialogues_are_not(self) -> None:
        assert rows_a_pass([330] * 16, [2 * 290] * 16, batch=4, accumulation=2) == 4
        assert rows_a_pass([330] * 16, [2 * 340] * 16, batch=4, accumulation=2) == 8
        assert rows_a_pass([800] * 16, [800] * 16, batch=4, accumulation=2) == 4


class TestThinned:
    @given(st.integers(0, 2000))
    def test_few_points_with_both_ends(self, points: int) -> None:
        curve = [(step, step / 3) for step in range(points)]
        kept = thinned(curve)
        assert len(kept) == min(points, len(kept)) <= CURVE_POINTS + 1
        assert [step for step, _ in kept[:1] + kept[-1:]] == [step for step, _ in curve[:1] + curve[-1:]]
        if points <= CURVE_POINTS:
            assert len(kept) == points


class TestRows:
    def read(self, tmp_path: Path, content: bytes) -> PermanentError:
        path = tmp_path / "pairs.jsonl"
        path.write_bytes(content)
        workspace = LocalWorkspace(tmp_path, "dpo", {}, inputs={"pairs": path})
        with pytest.raises(PermanentError) as caught:
            read_rows(workspace, "pairs", Pair)
        assert caught.value.reason == "RowsMalformed"
        return caught.value

    def test_a_row_of_another_kind_is_named_with_its_line(self, tmp_path: Path) -> None:
        good = write_rows(tmp_path / "good", [TestPairs.PAIR]).read_bytes()
        assert "input pairs, line 2" in str(self.read(tmp_path, good + b'{"id": "x"}\n'))

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        assert "input pairs, line 1" in str(self.read(tmp_path, b"\xff\xfe\x00"))

    def test_an_id_that_occurs_twice(self, tmp_path: Path) -> None:
        row = write_rows(tmp_path / "row", [TestPairs.PAIR]).read_bytes()
        assert "input pairs, line 2: id 'p' occurs twice" in str(self.read(tmp_path, row + row))

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        workspace = LocalWorkspace(tmp_path, "dpo", {}, inputs={"pairs": empty})
        with pytest.raises(PermanentError, match=r"input pairs: pairs\.jsonl cannot be read: No such file") as caught:
            read_rows(workspace, "pairs", Pair)
        assert caught.value.reason == "RowsMalformed"


class TestSplitDialogues:
    """Where one sequence cannot stand for a dialogue, each answer has its own."""

    @pytest.fixture(scope="class")
    def thinker(self, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
        directory = tmp_path_factory.mktemp("qwen3")
        save_tokenizer(FAMILIES["qwen3"], directory)
        return load_tokenizer(directory)

    def test_each_answer_is_learnt_behind_its_own_prompt(self, thinker: PreTrainedTokenizerBase) -> None:
        encoded = ChatEncoder(thinker, 2048).dialogues([DIALOGUES[0]])
        assert [learnt(thinker, row) for row in encoded.rows] == [["That must hurt." + END], ["What happened?" + END]]
        assert (encoded.dialogues, encoded.split) == (1, 1)
        assert encoded.whole_tokens < sum(row.tokens for row in encoded.rows)
        chats = Chats.of(thinker)
        for row, place in zip(encoded.rows, (1, 3), strict=True):
            prompt = chats.prompt(answer_messages(DIALOGUES[0].turns[:place]))
            assert row.input_ids[: len(prompt)] == prompt
            assert set(row.labels[: len(prompt)]) == {IGNORED}

    def test_a_turn_that_is_history_only_is_not_learnt(
        self, tokenizer: PreTrainedTokenizerBase, thinker: PreTrainedTokenizerBase
    ) -> None:
        turns = [*DIALOGUES[0].turns]
        turns[1] = turns[1].model_copy(update={"learnt": False})
        cruel = DIALOGUES[0].model_copy(update={"turns": turns})
        for each in (tokenizer, thinker):
            encoded = ChatEncoder(each, 2048).dialogues([cruel])
            assert [said for row in encoded.rows for said in learnt(each, row)] == ["What happened?" + END]
            assert (sum(row.turns for row in encoded.rows), encoded.unlearnt) == (1, 1)
            assert all("That must hurt." in each.decode(row.input_ids) for row in encoded.rows)
        turns[3] = turns[3].model_copy(update={"learnt": False})
        assert ChatEncoder(tokenizer, 2048).dialogues([cruel.model_copy(update={"turns": turns})]).silent == 1

    def test_a_chat_of_thousands_of_turns_keeps_its_last_ones(
        self, tokenizer: PreTrainedTokenizerBase, thinker: PreTrainedTokenizerBase
    ) -> None:
        endless = dialogue(*(f"Words number {number}." for number in range(3000)))
        whole = ChatEncoder(tokenizer, 256).dialogues([endless]).rows
        split = ChatEncoder(thinker, 1024).dialogues([endless]).rows
        assert learnt(tokenizer, whole[0])[-1] == learnt(thinker, split[-1])[0] == "Words number 2999." + END
        assert len(whole) == 1
        assert whole[0].tokens <= 256
        assert all(0 < row.tokens <= 1024 for row in split)
