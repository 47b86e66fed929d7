"""Chats of many model families as token ids: training and generation agree, and text stays text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evolution_jobs.chat.chats import Chats, chosen_template
from evolution_jobs.chat.files import read_chats
from evolution_jobs.chat.fitting import first_that_fits
from evolution_jobs.chat.template import PINNED_DATE
from evolution_jobs.chat.thoughts import Thoughts, without_thoughts
from evolution_jobs.chat.trial import try_chats
from evolution_jobs.contract.errors import PermanentError
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from tests.support.stages.chat_families import FAMILIES, Family, save_tokenizer, tokenizer

SYSTEM = {"role": "system", "content": "You are kind."}
ONE_SEQUENCE = {"chatml", "gemma", "phi3", "mistral-v3", "llama-3.1", "deepseek-r1", "glm"}
"""Families whose earlier answers stand as the last one does."""

TEXT = st.one_of(
    st.text(min_size=1, max_size=20),
    st.sampled_from(sorted({token for each in FAMILIES.values() for token in each.special + each.added})),
    st.sampled_from(["<|im_<|im_end|>end|>", "</think>done", "a<s>b</s>", "[INST] x [/INST]", "{{ bos_token }}"]),
).map(lambda text: text.strip() or ".")


def chat(*texts: str) -> list[dict[str, str]]:
    return [SYSTEM, *({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts))]


def decoded(chats: Chats, ids: list[int]) -> str:
    return chats.tokens.decode(ids)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def chats(name: str) -> Chats:
    return FAMILIES[name].chats()


class TestFamilies:
    def test_an_answer_is_trained_behind_the_prompt_that_generation_gives(self, chats: Chats) -> None:
        messages = chat("I am sad.", "Why?", "My dog died.")
        prompt, answer = chats.passage(messages, "I am sorry.")
        assert prompt == chats.prompt(messages)
        assert decoded(chats, answer[:-1]).strip() == "I am sorry."
        assert answer[-1] == chats.end_of_turn
        assert chats.tokens.control_ids.isdisjoint(answer[:-1])

    def test_the_system_message_is_never_lost(self, name: str, chats: Chats) -> None:
        text = decoded(chats, chats.prompt(chat("I am sad.", "Why?", "My dog died.")))
        assert text.count("You are kind.") == 1
        assert chats.folds_system == (name in ("gemma", "mistral-v3"))

    def test_one_sequence_stands_for_a_dialogue_only_where_it_may(self, name: str, chats: Chats) -> None:
        messages = chat("I am sad.", "Why?", "My dog died.", "I am sorry.")
        answered = chats.sequence(messages)
        assert (answered is not None) == (name in ONE_SEQUENCE)
        if answered:
            for place, (start, end) in zip((2, 4), answered.spans, strict=True):
                prompt, answer = chats.passage(messages[:place], messages[place]["content"])
                assert answered.ids[:end] == prompt + answer
                assert start == len(prompt)

    def test_a_prompt_asks_for_no_thoughts(self, chats: Chats) -> None:
        text = decoded(chats, chats.prompt(chat("I am sad.")))
        assert "<think>" not in text or text.endswith("<think>\n\n</think>\n\n")

    @settings(max_examples=40, deadline=None)
    @given(st.lists(TEXT, min_size=4, max_size=4))
    def test_words_never_become_control_tokens(self, name: str, texts: list[str]) -> None:
        chats = FAMILIES[name].chats()
        control = chats.tokens.control_ids
        spelled, plain = ([id_ for id_ in chats.prompt(chat(*said[:3])) if id_ in control] for said in (texts, "abc"))
        assert spelled == plain
        prompt, answer = chats.passage(chat(*texts[:3]), texts[3])
        assert prompt == chats.prompt(chat(*texts[:3]))
        assert [id_ for id_ in answer if id_ in control] == [chats.end_of_turn]
        assert decoded(chats, answer[:-1]).strip() == texts[3]
        if answered := chats.sequence(chat(*texts)):
            assert answered.ids[: answered.spans[1][1]] == prompt + answer


def test_an_equal_chat_has_the_tokens_that_transformers_gives_it() -> None:
    from jinja2 import Environment

    family = FAMILIES["chatml"]
    messages = chat("I am sad.", "Why?", "My dog died.")
    text = Environment().from_string(family.template).render(messages=messages, add_generation_prompt=True)
    assert family.chats().prompt(messages) == tokenizer(family.special).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chatml", []),
        ("phi3", []),
        ("gemma", ["takes no system message"]),
        ("qwen3", ["one sequence an answer", "can think"]),
        ("mistral-v3", ["takes no system message"]),
        ("system-moves", ["one sequence an answer"]),
        ("llama-3.1", ["26 Jul 2024"]),
        ("deepseek-r1", ["can think"]),
    ],
)
def test_what_a_user_should_know_of_a_template_is_said(name: str, said: list[str], tmp_path: Path) -> None:
    save_tokenizer(FAMILIES[name], tmp_path)
    chats = read_chats(lambda name: path.read_text() if (path := tmp_path / name).exists() else "")
    assert chats is not None
    notes = try_chats(chats)
    assert len(notes) == len(said)
    assert all(words in note for words, note in zip(said, notes, strict=True))
    assert chats.prompt(chat("I am sad.")) == FAMILIES[name].chats().prompt(chat("I am sad."))


def test_today_is_one_day_for_ever() -> None:
    chats = FAMILIES["llama-3.1"].chats()
    assert f"Today: {PINNED_DATE:%d %b %Y}" in decoded(chats, chats.prompt(chat("I am sad.")))
    assert chats.template.dated
    assert not FAMILIES["chatml"].chats().template.dated


def test_control_tokens_that_words_spell_are_counted() -> None:
    tokens = FAMILIES["qwen3"].chats().tokens
    assert tokens.spelled("a <|im_end|> b <think> c <|im_start|>") == 3
    assert tokens.spelled("a < b and |im_end|") == 0


def test_limits_that_a_tokenizer_keeps_from_its_training_do_not_cut_or_pad_chats() -> None:
    family = FAMILIES["chatml"]
    limited = Tokenizer.from_str(tokenizer(family.special).to_str())
    limited.enable_truncation(16)
    limited.enable_padding(length=64)
    chats = Chats(family.template, {}, limited)
    assert chats.passage(chat("I am sad."), "Why?") == family.chats().passage(chat("I am sad."), "Why?")


def test_an_unknown_character_does_not_end_an_answer() -> None:
    vocabulary = {letter: place for place, letter in enumerate("_abcdefghijklmnopqrstuvwxyzSYIK.<|>\n ")}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="_"))
    made.add_special_tokens(["_", *FAMILIES["chatml"].special])
    chats = Chats(FAMILIES["chatml"].template, {}, made)
    messages = chat("so sad", "ok 😀 tell me")
    answered = chats.sequence(messages)
    assert answered is not None
    prompt, answer = chats.passage(messages[:-1], messages[-1]["content"])
    [(start, end)] = answered.spans
    assert (answered.ids[:start], answered.ids[start:end]) == (prompt, answer)


def test_tokens_that_only_look_like_control_tokens_are_not_forged_either() -> None:
    family = FAMILIES["chatml"]
    chats = Chats(family.template, {}, tokenizer(family.special, ("<|file_sep|>", "<b>")))
    forged = chats.tokens._tokenizer.token_to_id("<|file_sep|>")
    assert forged not in chats.prompt(chat("x <|file_sep|> y"))
    assert chats.tokens._tokenizer.token_to_id("<b>") in chats.prompt(chat("x <b> y"))


def test_a_token_that_only_the_tokenizer_config_declares_is_added() -> None:
    family = FAMILIES["chatml"]
    bare = tokenizer(()).to_str()
    declared = {str(900 + place): {"content": token, "special": True} for place, token in enumerate(family.special)}
    config = {"chat_template": family.template, "added_tokens_decoder": declared}
    texts = {"tokenizer.json": bare, "tokenizer_config.json": json.dumps(config)}
    chats = read_chats(lambda name: texts.get(name, ""))
    assert chats is not None
    assert try_chats(chats) == []


@given(st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_the_first_place_that_fits_is_found_either_way(places: int, first: int, whole_first: bool) -> None:
    tried = []
    found = first_that_fits(places, lambda place: tried.append(place) or place >= first, whole_first)
    assert found == min(first, places)
    if not whole_first and places - first < 10:
        assert all(place >= places - 32 for place in tried), "the cost follows what fits"


class TestSentencePiece:
    """A tokenizer that writes a space before the beginning of each text, as Llama 2 and Mistral do."""

    @pytest.fixture(scope="class")
    def chats(self) -> Chats:
        letters = "▁abcdefghijklmnopqrstuvwxyzIMW.?'[]/<>|_\n"
        vocabulary = {letter: place for place, letter in enumerate(letters)}
        made = Tokenizer(models.BPE(vocabulary, [], unk_token="_"))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        family = FAMILIES["mistral-v3"]
        made.add_special_tokens(list(family.special))
        return Chats(family.template, {"bos_token": "<s>", "eos_token": "</s>"}, made)

    def test_an_answer_begins_with_the_space_that_the_template_writes(self, chats: Chats) -> None:
        prompt, answer = chats.passage(chat("I am sad."), "Why?")
        space, word = (chats.tokens._tokenizer.token_to_id(token) for token in ("▁", "W"))
        assert answer[:2] == [space, word]
        assert prompt[-1] == chats.tokens._tokenizer.token_to_id("[/INST]")


class TestRefused:
    @pytest.mark.parametrize(
        ("template", "words"),
        [
            ("{% for m in messages %}{{ m.content }}{% endfor %}", "cannot learn to stop"),
            ("{{ raise_exception('no chats here') }}", "no chats here"),
            ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", "words of the assistant"),
            ("{% for m in messages %}", "not valid"),
            ("{{ messages[0].content + 1 }}", "refuses a chat of user"),
            ("{{ messages[7].content.x }}", "refuses a chat of user"),
        ],
    )  # fmt: skip
    def test_in_one_sentence(self, template: str, words: str) -> None:
        with pytest.raises(PermanentError, match=words) as refused:
            Family(template, ("<s>", "</s>")).chats()
        assert refused.value.reason == "ChatTemplate"
        assert "\ue000" not in str(refused.value)

    def test_of_several_templates_the_default_is_taken(self) -> None:
        assert chosen_template({"tool_use": "a", "default": "b"}) == "b"
        with pytest.raises(PermanentError, match="only those named rag, tool_use"):
            chosen_template({"tool_use": "a", "rag": "b"})
        with pytest.raises(PermanentError, match="none"):
            chosen_template(None)


class TestThoughts:
    @pytest.mark.parametrize(
        ("text", "rest"),
        [
            ("I am here.", "I am here."),
            ("<think>She is sad.</think>\n\nI am here.", "I am here."),
            ("\n<think>\n\n</think>\n\nI am here.", "I am here."),
            ("She is sad.</think>I am here.", "I am here."),
            ("<think>She is sad and", ""),
            ("[THINK]She is sad.[/THINK]I am here.", "I am here."),
            ("I am sorry. Some write </thought> when done.", "I am sorry. Some write </thought> when done."),
            ("What do you think? <b>I</b> am here.", "What do you think? <b>I</b> am here."),
        ],
    )
    def test_are_no_part_of_an_answer(self, text: str, rest: str) -> None:
        assert without_thoughts(text) == (rest, rest != text)

    def test_whose_tags_are_tokens_are_left_out_before_the_decoder_drops_them(self) -> None:
        made = tokenizer(("<s>", "</s>", "[THINK]", "[/THINK]"))
        ids = made.encode("[THINK]She is sad.[/THINK]I am here.", add_special_tokens=False).ids
        assert made.decode(Thoughts(made).left_out(ids)) == "I am here."
        assert Thoughts(made).left_out(ids[:4]) == []
        assert Thoughts(tokenizer(("<s>", "</s>"))).left_out(ids) == ids
