"""Views of texts by their words: what each change does, its shares, files of synonyms and stop words, captions."""

from collections import Counter

import numpy as np
import pytest
import torch

import nearfar
from nearfar import encoders, views
from nearfar.errors import InputError
from nearfar.views.words import (
    Texts,
    Words,
    cleaned,
    joined,
    read_synonyms,
    with_synonyms,
    with_words_exchanged,
    with_words_left_out,
    without_stop_words,
)

LINE = "the black dog is on a wooden table"
DRAWS = 4000


def rng(seed=0):
    return np.random.default_rng(seed)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def told(*texts):
    return Texts(tuple((text,) for text in texts))


def test_stop_words_go_unless_nothing_else_is_there():
    assert without_stop_words(LINE.split()) == ["black", "dog", "wooden", "table"]
    assert without_stop_words(["The", "dog,", "it's"]) == ["dog,"]
    assert without_stop_words(["To", "be", "or", "not"]) == ["To", "be", "or", "not"]
    assert without_stop_words([]) == []


def test_weak_views_lose_them_with_their_probability():
    plan, make = Words(), rng(1)
    short = sum(plan.weak(LINE, make) == "black dog wooden table" for _ in range(DRAWS))
    assert short / DRAWS == pytest.approx(0.8, abs=0.03)
    assert Words(stop_words=0.0).weak("  an  odd   text ", make) == "  an  odd   text "


def test_one_change_by_the_weights():
    """A strong view is one change of the weak one, or the weak one itself where it drew the same."""
    plan, make, found = Words(stop_words=0.0, delete=0.3), rng(2), Counter()
    for _ in range(DRAWS):
        made, words = plan.changed(LINE, make).split(), LINE.split()
        if sorted(made) == sorted(words) and made != words:
            assert sum(a != b for a, b in zip(made, words, strict=True)) == 2
            found["swap"] += 1
        elif len(made) < len(words):
            assert made == [w for w in words if w in made]
            found["deletion"] += 1
        else:
            assert made == words
    # swap : deletion = 2 : 1, and a deletion that left all eight words is none
    assert found["swap"] / DRAWS == pytest.approx(2 / 3, abs=0.03)
    assert found["deletion"] / DRAWS == pytest.approx((1 - 0.7**8) / 3, abs=0.03)


def test_synonyms_come_from_the_file_and_take_their_share(tmp_path):
    (tmp_path / "words.txt").write_text("dog, hound, puppy\n\ntable,desk\nsit down, seat\nDog, mutt\n")
    known = read_synonyms(tmp_path / "words.txt")
    assert set(known["dog"]) == {"hound", "puppy", "mutt"}
    assert known["sit down"] == ("seat",)
    plan, make, found = Words(stop_words=0.0, synonyms=str(tmp_path / "words.txt")), rng(3), Counter()
    for _ in range(DRAWS):
        made = plan.changed(LINE, make).split()
        found["synonym"] += bool({"hound", "puppy", "mutt", "desk"} & set(made))
    assert found["synonym"] / DRAWS == pytest.approx(0.4, abs=0.03)


def test_a_synonym_stands_wherever_its_word_stood():
    known = {"dog": ["hound"], "cat": ["tiger"], "the": ["that"]}
    made = with_synonyms(["The", "dog,", "a", "Dog!", "and", "(cat)"], known, rng(), count=2)
    assert made == ["The", "hound,", "a", "hound!", "and", "(tiger)"]
    one = {" ".join(with_synonyms(["dog", "cat"], known, rng(k))) for k in range(20)}
    assert one == {"hound cat", "dog tiger"}
    assert with_synonyms(["bird"], known, rng()) == ["bird"]
    assert with_synonyms(["dog"], {"dog": [r"\1 hound"]}, rng()) == [r"\1 hound"]


def test_exchange_and_deletion_at_their_ends():
    assert with_words_exchanged(["one"], rng()) == ["one"]
    assert with_words_exchanged([], rng()) == []
    assert with_words_exchanged(["a", "b"], rng()) == ["b", "a"]
    assert with_words_exchanged(["a", "b"], rng(), count=2) == ["a", "b"]
    assert with_words_left_out([], rng(), 0.5) == []
    assert len(with_words_left_out(list("abc"), rng(), 1.0)) == 1
    assert with_words_left_out(list("abc"), rng(), 0.0) == list("abc")


def test_words_of_several_scripts_are_joined_as_they_were():
    assert joined(["a", "dog"]) == "a dog"
    assert joined(["黒", "い", "犬"]) == "黒い犬"
    assert joined(["犬", "dog"]) == "犬 dog"
    assert joined([]) == ""
    assert cleaned("  A&amp;amp;B\n dog ") == "a&b dog"


@pytest.fixture(scope="module")
def encoder():
    return encoders.text("small", texts=[LINE, "a cat sleeps", "hound puppy desk 犬"] * 4, vocabulary=300)


def test_views_are_those_of_their_texts(encoder):
    """Tokens of the plan are what the encoder makes of the changed texts; first weak, then strong."""
    plan = views.build("words", strong=2).bind(encoder)
    assert (plan.count, plan.members, plan.modality) == (3, 1, "text")
    made, texts = plan(told(LINE, "a cat sleeps"), generator(5)), plan.texts(told(LINE, "a cat sleeps"), generator(5))
    assert len(made) == 3
    for tokens, listed in zip(made, texts, strict=True):
        wanted = encoder.prepare(listed)
        assert torch.equal(tokens.ids, wanted.ids)
        assert torch.equal(tokens.mask, wanted.mask)
    again = plan(told(LINE, "a cat sleeps"), generator(5))
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize("first", ["plain", "weak", "strong"])
def test_how_the_first_view_is_changed(encoder, first):
    plan = Words(strong=1, first=first, delete=0.5).bind(encoder)
    found = [{plan.texts(told(LINE), generator(k))[v][0] for k in range(60)} for v in range(2)]
    assert len(found[1]) > 10
    expected = {"plain": {LINE}, "weak": {LINE, "black dog wooden table"}}
    assert found[0] == expected[first] if first in expected else len(found[0]) > 10


def test_every_view_draws_its_own_caption(encoder):
    plan = Words(strong=1, first="plain", stop_words=0.0, swap=0.0, deletion=0.0, unchanged=1.0).bind(encoder)
    listed = Texts((("one", "two", "three"), ("only",)))
    seen = Counter(tuple(view[0] for view in plan.texts(listed, generator(k))) for k in range(300))
    assert len(seen) == 9
    assert min(seen.values()) > 15
    assert {view[1] for k in range(5) for view in plan.texts(listed, generator(k))} == {"only"}


def test_captions_of_a_image_reach_every_view_of_it(tmp_path):
    from PIL import Image

    make, rows = rng(), []
    for i in range(40):
        Image.fromarray(make.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f'{{"image": "{i}.png", "captions": [{", ".join(f_q(i, k) for k in range(1 + i % 3))}]}}')
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    data = nearfar.data(tmp_path / "list.jsonl")
    train = np.asarray(data.splits["train"])
    read, own = Words().reader(data, "text")(train, None), data.texts("text", train)
    for listed, text in zip(read.told, own, strict=True):
        image = text.split()[1]
        assert text in listed
        assert set(listed) == {f"image {image} told {k}" for k in range(1 + int(image) % 3)}


def f_q(i, k):
    return f'"image {i} told {k}"'


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: Words(swap=0, deletion=0), "no file"),
        (lambda f: Words(swap=0, deletion=0, synonym=0), "weights are 0"),
        (lambda f: Words(synonyms=str(f / "none.txt")), "cannot be read"),
        (lambda f: Words(synonyms=str(f / "lone.txt")), "lone.txt, line 2: 'cat' stands alone"),
        (lambda f: Words(synonyms=str(f / "empty.txt")), "holds no synonyms"),
        (lambda f: Words(stop_list=str(f / "empty.txt")), "holds no stop words"),
        (lambda f: Words(stop_words=1.5), "stop_words"),
        (lambda f: Words(strong=-1), "strong"),
    ],
)
def test_what_cannot_be_is_told(make, message, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "lone.txt").write_text("dog, hound\ncat\n")
    with pytest.raises(InputError, match=message):
        make(tmp_path)


def test_tokens_are_refused(encoder):
    plan = Words().bind(encoder)
    with pytest.raises(InputError, match="reads their tokens"):
        plan(encoders.tokens.pad([[1, 2]]), generator())
