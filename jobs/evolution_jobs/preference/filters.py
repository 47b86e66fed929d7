"""Which rewritten answers become preference pairs (arXiv 2505.16610, section 3). Pure."""

from __future__ import annotations

import re
import unicodedata

from ..contract.rows import Reject, Response
from ..unspaced import WORD, count_words

_LABEL = r"[*_#\s]*(?:{names})[*_\s]*:[*_]*\s*"
_SPEAKER = re.compile(
    _LABEL.format(names="supporter|assistant|counsell?or|therapist|helper|chatbot|bot|ai"), re.IGNORECASE
)
_SEEKER_LINE = re.compile(r"\n" + _LABEL.format(names="user|seeker|client|person|human"), re.IGNORECASE)
_NOUN = r"(?:answer|response|reply|rewrite|version)"
_LEAD_IN = re.compile(
    rf"(?:(?:sure|certainly|of course|okay|ok|absolutely)\b[,.!]*\s*)?"
    rf"(?:here(?:['’]s| is)\s[^.!?:\n]{{0,60}}?\b{_NOUN}\b[^.!?:\n]{{0,60}}"
    rf"|[*_#\s]*(?:(?:my|the|your)\s)?(?:new|rewritten|revised|refined|improved|personali[sz]ed|final)\s{_NOUN}[*_\s]*"
    rf"|[*_#\s]*{_NOUN}[*_\s]*):[*_]*\s*",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "“": "”", "«": "»", "'": "'", "‘": "’"}
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)*]*(?=\s|$)|[。！？]")


def judge(chosen: Response, rejected: Response, max_length_ratio: float) -> tuple[str, str] | Reject:
    """Chosen and rejected as they are trained on, or the reason why the row is dropped.

    Both sides must be `usable`. `equal` (but for case, punctuation and white space) and `too_long` (chosen over
    `max_length_ratio` times rejected, in words) are the paper's filters.
    """
    better, worse = usable(chosen, "chosen"), usable(rejected, "rejected")
    if isinstance(better, Reject):
        return better
    if isinstance(worse, Reject):
        return worse
    if normalise(better) == normalise(worse):
        return Reject(id=chosen.id, reason="equal", detail="chosen says the same as rejected")
    if words(better) > max_length_ratio * words(worse):
        detail = f"chosen has {words(better)} words, rejected {words(worse)}"
        return Reject(id=chosen.id, reason="too_long", detail=detail)
    return better, worse


def usable(answer: Response, side: str) -> str | Reject:
    """The answer as it is trained on, or why it cannot be: it has no words (`empty`) or no full sentence (`truncated`).

    An answer that was cut off at the token limit loses its last, unfinished sentence, on either side of a pair. A cut
    chosen answer would teach the model to stop in mid-sentence, and a cut rejected answer would differ from chosen by
    its end alone.
    """
    if not normalise(answer.text):
        return Reject(id=answer.id, reason="empty", detail=f"{side} has no words")
    text = whole_sentences(answer.text) if answer.finish == "length" else answer.text.strip()
    if not normalise(text):
        return Reject(id=answer.id, reason="truncated", detail=f"{side} was cut off inside its first sentence")
    return text


def clean(text: str) -> str:
    """A model's rewrite, without the text around the answer.

    Removed until nothing more is found: a lead-in ("Here is the rewritten answer:"), a speaker's label ("Supporter:"),
    quotation marks around the whole answer, and everything from the line where the model writes the seeker's next turn.
    """
    while True:
        shorter = _unquoted(_cut_next_turn(_without_start(text.strip()))).strip()
        if shorter == text:
            return text
        text = shorter


def normalise(text: str) -> str:
    """Letters and digits only, in lower case, with single spaces: two answers are equal if this is equal."""
    return " ".join(WORD.findall(unicodedata.normalize("NFKC", text).casefold().replace("_", " ")))


def words(text: str) -> int:
    """Number of words, as the paper's length filter and the metrics count them."""
    return count_words(text)


def whole_sentences(text: str) -> str:
    """The text up to the end of its last full sentence; empty if there is none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def _without_start(text: str) -> str:
    for pattern in (_LEAD_IN, _SPEAKER):
        if match := pattern.match(text):
            text = text[match.end() :]
    return text


def _cut_next_turn(text: str) -> str:
    match = _SEEKER_LINE.search(text)
    return text[: match.start()] if match else text


def _unquoted(text: str) -> str:
    if len(text) < 2 or _QUOTES.get(text[0]) != text[-1]:
        return text
    inner = text[1:-1]
    marks = re.sub(r"(?<=\w)['’](?=\w)", "", inner)  # an apostrophe does not end a quotation
    # 'He said "no", and then "yes"' has more than one quotation.
    return inner if text[0] not in marks and text[-1] not in marks else text
