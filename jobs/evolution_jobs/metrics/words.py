"""Words as the reference metrics count them: lower-cased `nltk.word_tokenize`, without the data that it downloads.

`word_tokenize` first splits a text into sentences with Punkt's trained English model, then tokenises each sentence.
The split matters because a period is a word of its own only at the end of a sentence: "i am ok. thanks." is five words
or four, and a third of ESConv's utterances differ without the split. NLTK downloads the model as data. This module
instead gives NLTK's own Punkt algorithm the only part of the model that matters for lower-cased English, its
abbreviations. The other parts do not matter: sentence starters need capital letters; the learnt case of words, used
after numbers and initials, differs from Punkt's default for unknown words in only 4 of 20,366 lower-case words; and the
37 collocations are bylines of a newspaper. On all 32,326 utterances of ESConv the words are the same.

The result does not depend on the data that a machine happens to have.
"""

from __future__ import annotations

from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from ..unspaced import spaced

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
"""Words after which a period does not end a sentence in Punkt's English model. The list is not corrected: "ok." at the
end of a sentence is one word in the reference metrics, and so it is here. Initials of persons, which no conversation
has, are left out."""


def _punkt() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


_SENTENCES = _punkt()
_WORDS = NLTKWordTokenizer()


def reference_words(text: str) -> list[str]:
    """The words of a text, lower-cased, as `nltk.word_tokenize(text.lower())` gives them with Punkt's English model.

    Each character of a script without spaces is a word, which the reference implementation does not know.
    """
    return [word for sentence in _SENTENCES.tokenize(spaced(text).lower()) for word in _WORDS.tokenize(sentence)]
