"""The classes of the words of captions, by rules (English, with the words' neighbours in the data) or by a local
pipeline of spaCy.

    rules = Rules([["a", "black", "dog", "chases", "a", "cat"]])
    rules(["a", "black", "dog"])                        # ["determiner", "adjective", "noun"]
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from nearfar.errors import InputError, install
from nearfar.surface import plain

WordClass = Literal["noun", "adjective", "adverb", "verb", "determiner", "number", "other"]


class Tagger(Protocol):
    """Says the class of each word of a text."""

    def __call__(self, words: Sequence[str]) -> list[WordClass]: ...


def _known(lists: Mapping[WordClass, str]) -> dict[str, WordClass]:
    return {word: name for name, text in lists.items() for word in text.split()}


_PREPOSITIONS = """of in on at by for with without from to into onto over under above below behind beside
        besides among across along around through near against towards toward after before during within inside
        outside beneath underneath upon"""
PREPOSITIONS = frozenset(_PREPOSITIONS.split())
CLOSED: Mapping[str, WordClass] = _known({
    "determiner": """a an the this that these those some any each every no both all another my your his her its
        our their""",
    "number": "one two three four five six seven eight nine ten eleven twelve several many few",
    "other": """between while as than like and or but nor so yet if then because although when where which who
        whom whose what how why there here not n't i you he she it we they me him them us up down off out about
        per via next is are was were be been being am has have had having do does did will would can could shall
        should may might must left right front back top bottom middle side only also too very quite just """
    + _PREPOSITIONS,
})  # fmt: skip
OPEN = _known({
    "adjective": """red green blue yellow orange purple pink brown black white grey gray golden silver big small
        large little tiny huge tall short long young old new empty full open closed hot cold warm wet dry dark
        bright light clear clean dirty fresh round square flat thin thick fat narrow wide deep high low fast
        slow happy sad angry good bad nice pretty ugly heavy soft hard sharp smooth rough tired sleepy busy
        quiet loud modern ancient male female sunny cloudy snowy sandy grassy rocky furry fluffy shiny striped
        friendly lovely curly lonely elderly early various different same other wild plain bare blond blonde
        asian american european""",
    "adverb": """together away almost always never often sometimes soon now again well maybe perhaps instead
        alone ahead apart forward backward upside sideways""",
    "noun": """family butterfly jelly belly lily building ceiling wedding clothing ring king string thing
        wing morning evening painting railing crossing spring swing something nothing anything everything
        earring pudding icing dressing sibling bed shed seed weed speed sled breed festival animal hospital
        metal medal pedal petal signal sandal table vegetable cable kitchen music picnic traffic fabric plastic
        ceramic garlic""",
    "verb": """sits stands holds rides runs walks looks eats plays flies lies wears jumps drives takes makes
        goes gets sit stand hold ride run walk look eat sat stood held rode ran ate lay flew shows waits carries
        pulls pushes chases watches catches throws hits swings reaches crosses chase watch wear fly lie hold
        hang hangs""",
})  # fmt: skip
ENDINGS: Sequence[tuple[str, WordClass]] = (
    ("ly", "adverb"), ("ing", "verb"), ("ed", "verb"), ("ous", "adjective"), ("ful", "adjective"),
    ("less", "adjective"), ("able", "adjective"), ("ible", "adjective"), ("ive", "adjective"), ("ish", "adjective"),
    ("ical", "adjective"), ("al", "adjective"), ("ic", "adjective"), ("ese", "adjective"),
)  # fmt: skip
LEADING = ("determiner", "number", "adjective")
ENGLISH, COMMON, SEEN, USUAL = 0.1, 0.05, 3, 0.8
"""The least share of words of closed classes in English; the share of the texts that a word of another language stands
in to count as one of theirs; how often a word is seen, and in what share of it, before its neighbours say its class."""


class Rules:
    """Closed classes and common words by lists, others by their endings and by their neighbours in the data; what is
    left is a noun. Texts that are not like English (fewer than one word in ten of a closed class): words that stand in
    more than one text of twenty are "other", the rest nouns.

    texts: the words of each text of the data.
    """

    def __init__(self, texts: Iterable[Sequence[str]] = ()):
        lists = [[plain(word) for word in text] for text in texts]
        count = sum(map(len, lists))
        self.english = not count or sum(word in CLOSED for words in lists for word in words) >= ENGLISH * count
        often = Counter(word for words in lists for word in set(words))
        self.common = frozenset(word for word, n in often.items() if n > max(1, COMMON * len(lists)))
        self.learned = _by_neighbours(lists) if self.english else {}

    def __call__(self, words: Sequence[str]) -> list[WordClass]:
        low = [plain(word) for word in words]
        if not self.english:
            return ["other" if word in self.common else "noun" for word in low]
        found: list[WordClass] = [self.learned.get(word) or _alone(word) for word in low]
        for place, (before, after) in enumerate(itertools.pairwise(found), 1):
            is_participle = low[place - 1].endswith(("ing", "ed")) and before == "verb"
            led = place > 1 and (found[place - 2] in LEADING or low[place - 2] in PREPOSITIONS)
            if is_participle and led and after in ("noun", "adjective"):
                found[place - 1] = "adjective"  # a parked car, two running dogs
        return found


def _alone(word: str) -> WordClass:
    """The class of a word without its neighbours."""
    known = CLOSED.get(word) or OPEN.get(word)
    if known:
        return known
    if word.isdigit():
        return "number"
    if not any(letter.isalnum() for letter in word):
        return "other"
    for ending, kind in ENDINGS:
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            return kind
    return "noun"


def _by_neighbours(lists: Sequence[Sequence[str]]) -> dict[str, WordClass]:
    """Words without list or ending: a verb stands between a noun and a word of a closed class and ends in s, where its
    stem is no noun; a modifier stands between a determiner and a noun nearly always."""
    seen, modifying, between, nouns = Counter[str](), Counter[str](), Counter[str](), set[str]()
    for words in lists:
        classes = [_alone(word) for word in words]
        for i, (word, kind) in enumerate(zip(words, classes, strict=True)):
            if kind != "noun" or word in OPEN:
                continue
            before, after = classes[i - 1] if i else "", classes[i + 1] if i + 1 < len(words) else ""
            seen[word] += 1
            led = before in LEADING
            modifying[word] += led and after == "noun"
            between[word] += before == "noun" and after in ("determiner", "number", "other")
            if led and after != "noun":
                nouns.add(word)
    found: dict[str, WordClass] = {}
    for word, n in seen.items():
        if word.endswith("s") and between[word] > n / 2 and not {word, word[:-1], word[:-2]} & nouns:
            found[word] = "verb"
        elif n >= SEEN and modifying[word] >= USUAL * n:
            found[word] = "adjective"
    return found


SPACY: dict[str, WordClass] = {
    "NOUN": "noun", "PROPN": "noun", "ADJ": "adjective", "ADV": "adverb", "VERB": "verb", "DET": "determiner",
    "NUM": "number",
}  # fmt: skip


class SpacyTagger:
    """The parts of speech of a pipeline of spaCy that lies in a local folder; nothing is downloaded.

    Raises InputError where spaCy is not installed, or the folder holds no pipeline that tags.
    """

    def __init__(self, folder: str):
        if not Path(folder).is_dir():
            raise InputError(f"There is no folder of word classes '{folder}'.",
                             "Give the folder of a pipeline of spaCy (nlp.to_disk), or rules.")  # fmt: skip
        if not (Path(folder) / "config.cfg").is_file():
            raise InputError(f"'{folder}' is no pipeline of spaCy: it holds no config.cfg.",
                             "Give the folder that nlp.to_disk wrote, or rules.")  # fmt: skip
        try:
            import spacy  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError("A pipeline of spaCy needs spaCy.", install("spacy")) from None
        try:
            self.pipeline: Any = spacy.load(folder)
        except (OSError, ValueError) as error:
            raise InputError(f"'{folder}' cannot be read as a pipeline of spaCy: {error}") from error
        self.document: Any = spacy.tokens.Doc

    def __call__(self, words: Sequence[str]) -> list[WordClass]:
        tagged = self.pipeline(self.document(self.pipeline.vocab, words=list(words)))
        if len(words) and not any(token.pos_ for token in tagged):
            raise InputError("This pipeline of spaCy tags no parts of speech.", "Take one with a tagger, or rules.")
        return [SPACY.get(token.pos_, "other") for token in tagged]


def tagger(name: str, texts: Iterable[Sequence[str]]) -> Tagger:
    """ "rules" of these texts (lists of words), or the pipeline of spaCy of that folder."""
    return Rules(texts) if name == "rules" else SpacyTagger(name)
