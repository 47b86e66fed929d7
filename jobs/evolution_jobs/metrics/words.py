"""Words as the reference metrics count them: lower-cased `nltk.word_tokenize`, without the data that it downloads.

`word_tokenize` first splits a text into sentences with Punkt's trained English model, then tokenises each sentence.
The split matters because a period is its own word only at the end of a sentence: "i am ok. thanks." is five words or
four, and a third of ESConv's utterances differ without it. The model is data that NLTK fetches from the network, so
this module gives NLTK's own Punkt algorithm the only part of that model that decides on lower-cased English:
its abbreviations. Its sentence starters need capital letters; what it learnt about the case of words, consulted after
numbers and initials, says the same of a lower-case word as Punkt assumes of an unknown one, but for 4 of 20,366 words;
and its 37 collocations are bylines of a newspaper. On all 32,326 utterances of ESConv the words are the same.

The result never depends on which data a machine happens to have.
"""

from __future__ import annotations

from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

# By kind: titles; times; companies and countries; American places; ordinary words that Punkt's newspaper corpus knew
# only as abbreviations (of Oklahoma, of Illinois); single letters.
_ABBREVIATIONS = """
    adm bros col dr gen jr lt m.b.a maj messrs mr mrs ms ph.d prof rep reps sen sr
    a.m aug dec feb fri jan nov oct p.m sep sept tues wed yr
    co corp cos inc ltd u.k u.n u.s u.s.a u.s.s.r
    ala ariz ave calif colo conn ct d.c fla ft ga kan ky l.a mich minn n.c n.d n.h n.j n.m n.y nev okla ore pa r.i s.c
    st tenn va vt w.va wash wis
    ill mg ok sw v vs
    c d e f g h k l m n p r s t w
"""
ABBREVIATIONS: frozenset[str] = frozenset(_ABBREVIATIONS.split())
"""Words after which a period does not end a sentence for Punkt's English model. Ours to list, not to judge: "ok." at
the end of a sentence stays one word in the reference metrics, so it does here. Initials of persons that no
conversation holds are left out."""


def _punkt() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


_SENTENCES = _punkt()
_WORDS = NLTKWordTokenizer()


def reference_words(text: str) -> list[str]:
    """The words of a text, lower-cased, as `nltk.word_tokenize(text.lower())` gives them with Punkt's English model."""
    return [word for sentence in _SENTENCES.tokenize(text.lower()) for word in _WORDS.tokenize(sentence)]
