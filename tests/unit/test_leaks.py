"""Near-duplicates are found, different conversations are not, measured on real dialogues."""

import json
import random
from itertools import combinations
from pathlib import Path

import pytest
from evolution_jobs.contract.locations import Source
from evolution_jobs.contract.rows import Dialogue, Turn
from evolution_jobs.data import leaks as module
from evolution_jobs.data.leaks import groups, leaks
from evolution_jobs.data.preprocess import dialogue, preprocess
from evolution_jobs.data.readers import read_dialogue
from hypothesis import given
from hypothesis import strategies as st

EXAMPLES = Path(__file__).parents[2] / "examples" / "quickstart" / "data"
ESCONV = Source(uri="file:///x", format="esconv")


def example(name: str) -> list[Dialogue]:
    lines = (EXAMPLES / f"{name}.jsonl").read_text("utf-8").splitlines()
    found = [preprocess(read_dialogue(json.loads(line), ESCONV)[0])[0] for line in lines]
    return [dialogue(turns, f"{name}.jsonl line {number}") for number, turns in enumerate(found, start=1)]


@pytest.fixture(scope="module")
def real() -> list[Dialogue]:
    return [each for name in ("seed", "contexts", "test") for each in example(name)]


def changed(original: Dialogue, share: float, rng: random.Random) -> Dialogue:
    """The dialogue with a share of its words replaced."""

    def word(old: str) -> str:
        return f"other{rng.randrange(10**6)}" if rng.random() < share else old

    turns = [Turn(role=turn.role, text=" ".join(map(word, turn.text.split()))) for turn in original.turns]
    return dialogue(turns, f"a copy of {original.source}")


def test_different_real_conversations_are_no_near_duplicates(real: list[Dialogue]) -> None:
    assert leaks(example("test"), [*example("seed"), *example("contexts")]) == []
    assert set(groups(real).items()) == {(each.id, each.id) for each in real}


def test_the_threshold_is_far_from_both_sides(real: list[Dialogue], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONTAINMENT", 0.15)
    assert leaks(real[:29], real[29:]) == []
    rng = random.Random(0)
    monkeypatch.setattr(module, "CONTAINMENT", 0.5)
    copies = [changed(each, 0.1, rng) for each in real]
    assert [(match.left, match.right) for match in leaks(copies, real)] == list(zip(copies, real, strict=True))


def test_a_copy_with_some_words_changed_is_named_with_its_original(real: list[Dialogue]) -> None:
    rng = random.Random(1)
    (match,) = leaks([*real[:5], changed(real[20], 0.1, rng)], real[10:])
    assert (match.left.source, match.right.source) == (f"a copy of {real[20].source}", real[20].source)
    assert 0.4 < match.shared < 0.9


@pytest.mark.parametrize("part", [slice(0, 6), slice(4, 12), slice(-6, None)])
def test_a_part_of_a_conversation_is_found(real: list[Dialogue], part: slice) -> None:
    piece = dialogue(real[7].turns[part], "a part")
    for test, training in (([piece], real), (real, [piece])):
        (match,) = leaks(test, training)
        assert match.shared == pytest.approx(1)
        assert {match.left.source, match.right.source} == {"a part", real[7].source}


def test_case_and_punctuation_do_not_hide_a_copy(real: list[Dialogue]) -> None:
    turns = [Turn(role=turn.role, text=f"...{turn.text.upper()} !!") for turn in real[3].turns]
    (match,) = leaks([dialogue(turns, "loud")], real)
    assert match.right == real[3]


def test_a_language_without_spaces() -> None:
    text = "我最近工作压力很大晚上总是睡不着觉也不知道应该跟谁说"
    one = dialogue([Turn(role="seeker", text=text)], "one")
    other = dialogue([Turn(role="seeker", text=text.replace("晚上", "夜里"))], "other")
    assert len(leaks([one], [other])) == 1
    assert leaks([one], [dialogue([Turn(role="seeker", text="今天天气很好我们一起去公园散步吧好不好")], "x")]) == []


def test_short_conversations_are_alike_only_where_they_are_equal() -> None:
    def short(text: str, reply: str) -> Dialogue:
        return dialogue([Turn(role="seeker", text=text), Turn(role="supporter", text=reply)], f"{text} {reply}")

    asked = short("I am so sad", "Why are you?")
    assert leaks([asked], [short("I am so sad", "Tell me more")]) == []
    assert len(leaks([asked], [short("i am so SAD!", "why are you")])) == 1
    assert leaks([short("😊", "😊")], [short("😢", "😢")]) == []
    assert len(leaks([short("Sad", "Why")], [short("sad", "why")])) == 1


def test_near_duplicates_that_others_connect_are_one_group(real: list[Dialogue]) -> None:
    whole = real[0]
    half = len(whole.turns) // 2
    parts = [dialogue(whole.turns[:half], "first"), dialogue(whole.turns[half:], "second")]
    found = groups([parts[0], real[1], whole, parts[1]])
    assert len({found[each.id] for each in (parts[0], whole, parts[1])}) == 1
    assert len(set(found.values())) == 2


def test_nothing_to_compare() -> None:
    one = dialogue([Turn(role="seeker", text="a b c d e")], "x")
    assert leaks([], []) == leaks([one], []) == leaks([], [one]) == []
    assert groups([]) == {}


words = st.lists(st.sampled_from("abcdef"), max_size=40).map(" ".join)


@given(st.lists(words, max_size=7, unique=True), st.integers(0, 7))
def test_what_is_found_is_what_comparing_every_pair_finds(texts: list[str], boundary: int) -> None:
    """The index that skips common shingles is exact, also on texts that share nearly everything."""
    dialogues = [dialogue([Turn(role="seeker", text=text)], str(number)) for number, text in enumerate(texts)]
    shingles = [_naive(text) for text in texts]
    expected = {
        (one, other)
        for one, other in combinations(range(len(texts)), 2)
        if one < boundary <= other and _alike(shingles[one], shingles[other])
    }
    found = leaks(dialogues[:boundary], dialogues[boundary:])
    assert {(int(match.left.source), int(match.right.source)) for match in found} == expected


def _naive(text: str) -> set[tuple[str, ...]]:
    found = text.split()
    width = min(4, len(found))
    return {tuple(found[at : at + width]) for at in range(len(found) - width + 1)} if found else set()


def _alike(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> bool:
    smaller = min(len(one), len(other))
    if smaller < 8:
        return bool(smaller) and one == other
    return len(one & other) >= max(0.4 * smaller, 8)
