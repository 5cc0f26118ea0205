"""Captions with their words in another order: what is exchanged, what a perturbation may move, and how words are
classed."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar import captions
from nearfar.captions import SHUFFLES, caption_words, clean_caption, exchanged, hard_captions
from nearfar.errors import InputError
from nearfar.word_classes import Rules, SpacyTagger, tagger

TEXTS = [
    "A black dog chases a white cat on the grass.",
    "two young men playing frisbee in a large park",
    "a man rides a horse, and a woman feeds it",
    "the grinning face left of a red heart",
    "a parked car next to a running dog",
    "the feeder stands quickly beside the gate",
]
RULES = Rules(map(caption_words, TEXTS))


def classes(text):
    return dict(zip(caption_words(text), RULES(caption_words(text)), strict=True))


@pytest.mark.parametrize(
    ("text", "word", "kind"),
    [
        (TEXTS[0], "black", "adjective"),
        (TEXTS[0], "chases", "verb"),
        (TEXTS[0], "A", "determiner"),
        (TEXTS[1], "two", "number"),
        (TEXTS[1], "playing", "verb"),
        (TEXTS[2], "feeds", "verb"),  # by its neighbours
        (TEXTS[3], "grinning", "adjective"),
        (TEXTS[3], "left", "other"),
        (TEXTS[4], "parked", "adjective"),
        (TEXTS[5], "quickly", "adverb"),
        (TEXTS[5], "feeder", "noun"),
        ("the butterfly on a building", "butterfly", "noun"),
        ("a man is eating grass", "eating", "verb"),
    ],
)
def test_classes_by_rules(text, word, kind):
    assert classes(text)[word] == kind


def test_texts_of_another_language_exchange_their_rarer_words():
    texts = [f"der {a} jagt die {b}" for a in ("Hund", "Wolf", "Fuchs", "Marder") for b in ("Katze", "Maus", "Ente")]
    texts += [f"der {a} mag das {b}" for a in ("Igel", "Storch", "Spatz") for b in ("Korn", "Brot", "Heu", "Gras")]
    rules = Rules(map(caption_words, texts * 3))
    assert not rules.english
    assert rules(["der"]) == ["other"]
    rare = Rules(map(caption_words, [*texts * 3, "der Luchs jagt die Gans"]))
    assert exchanged("der Luchs jagt die Gans", rare)["noun"] == ["der Gans jagt die Luchs"]


def test_constituents_of_one_kind_are_exchanged():
    made = exchanged(TEXTS[0], RULES)
    assert "A black cat chases a white dog on the grass." in made["noun"]
    assert made["adjective"] == ["A white dog chases a black cat on the grass."]
    assert "A white cat chases a black dog on the grass." in made["phrase"]
    assert exchanged("Two dogs watch the cat", RULES)["phrase"] == ["The cat watch two dogs"]
    assert exchanged(TEXTS[2], RULES)["verb"] == ["a man feeds a horse, and a woman rides it"]


@pytest.mark.parametrize(
    "text", ["a cat and a dog", "a big, red ball", "a table next to the chairs", "it runs and jumps"]
)
def test_what_means_the_same_is_no_hard_caption(text):
    assert not any(exchanged(text, RULES).values())


def test_what_an_adjective_or_a_number_goes_with_counts():
    made = exchanged("a red cat and a blue dog", RULES)
    assert made["noun"] == ["a red dog and a blue cat"]
    assert made["adjective"] == ["a blue cat and a red dog"]
    assert made["phrase"] == []
    assert exchanged("two cats and a dog", RULES)["noun"] == ["two dog and a cats"]
    assert len(exchanged("a cat near a dog on a mat", RULES)["noun"]) == 2


def test_phrases_do_not_cross_punctuation():
    assert "a red, dog" not in [TEXTS[0][a:b] for a, b in captions.constituents("a red, dog", RULES)["phrase"]]
    spans = captions.constituents("a red dog, blue cat", RULES)["phrase"]
    assert [("a red dog, blue cat")[a:b] for a, b in spans] == ["a red dog", "blue cat"]


@pytest.mark.parametrize("text", ["", "dog", "dog dog", "a dog and a dog", "...", "a dog"])
def test_nothing_to_exchange(text):
    assert not any(exchanged(text, RULES).values())
    assert hard_captions(text, RULES, np.random.default_rng(0)) == []


def test_a_random_exchange_needs_two_different_words():
    rng = np.random.default_rng(0)
    assert captions.exchanged_words("dog Dog", rng) == []
    assert captions.exchanged_words("", rng) == []
    assert captions.exchanged_words("a dog.", rng) == ["dog a."]
    assert captions.exchanged_words("Sleeping dog", rng) == ["Dog sleeping"]


WORDS = ["a", "the", "black", "white", "dog", "cat", "grass", "chases", "eating", "on", "of", "quickly", "two", "it"]
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(text=SENTENCES, seed=st.integers(0, 99))
def test_hard_captions_have_the_words_of_the_caption_in_another_order(text, seed):
    made = hard_captions(text, RULES, np.random.default_rng(seed), most=4)
    assert len(made) == len(set(made)) <= 4
    for one in made:
        assert one != text
        assert Counter(one.split()) == Counter(text.split())


@settings(max_examples=60, deadline=None)
@given(text=SENTENCES, seed=st.integers(0, 99))
def test_perturbations_keep_the_words_and_their_places(text, seed):
    words = text.split()
    tags = RULES(words)
    open_class = [tag in ("noun", "adjective") for tag in tags]
    made = {name: shuffle(words, tags, np.random.default_rng(seed)) for name, shuffle in SHUFFLES.items()}
    assert all(Counter(one) == Counter(words) for one in made.values())
    for i, free in enumerate(open_class):
        assert made["other words" if free else "nouns and adjectives"][i] == words[i]
    for kind in ("noun", "adjective"):
        places = [i for i, tag in enumerate(tags) if tag == kind]
        assert Counter(made["nouns and adjectives"][i] for i in places) == Counter(words[i] for i in places)
    groups = [tuple(words[i : i + 3]) for i in range(0, len(words), 3)]
    for i, group in enumerate(groups):
        assert Counter(made["within trigrams"][3 * i : 3 * i + 3]) == Counter(group)
    short = [i for i in range(len(groups)) if len(words) % 3] or [len(groups)]  # where the shorter group may stand
    cuts = [[3 * i - (3 - len(words) % 3) * (i > place) for i in range(len(groups) + 1)] for place in short]
    found = [Counter(tuple(made["trigrams"][a:b]) for a, b in pairwise(cut)) for cut in cuts]
    assert Counter(groups) in found or not words


def test_every_perturbation_moves_something():
    words = clean_caption(TEXTS[0]).split()
    for shuffle in SHUFFLES.values():
        assert len({tuple(shuffle(words, RULES(words), np.random.default_rng(seed))) for seed in range(20)}) > 1


def test_cleaning_as_aro_does():
    assert clean_caption('  A "Dog" (black)!  runs; #1: well~ *yes*. ') == "a dog black runs 1 well yes"
    assert clean_caption("who, me?") == "who, me?"
    assert clean_caption("a " * 40) == " ".join(["a"] * 30)
    assert clean_caption("one two three", most=2) == "one two"


def test_folders_of_word_classes(tmp_path):
    assert isinstance(tagger("rules", []), Rules)
    with pytest.raises(InputError, match="no folder of word classes"):
        SpacyTagger(str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"no config\.cfg"):
        SpacyTagger(str(tmp_path))
