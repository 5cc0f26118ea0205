"""Data of the checks of claims, opened by the library: files are made once (`made`), and read as a user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from made.graphs import modules, near_digits
from made.images import (
    BAG,
    bags,
    bands_of_digits,
    described_digits,
    diabetes_permuted,
    digit_facts,
    digits,
    digits_on_photographs,
    emoji_on_photographs,
    emoji_with_words,
    imbalanced,
    long_tailed_operations,
    mixed,
    names,
    new_classes,
    numbers_of_new_classes,
    scenes_of_two,
    subgroups,
    turned,
    turned_permuted,
    two_digits,
    two_digits_with_words,
)
from made.interactions import walks
from made.texts import (
    DOCUMENTS,
    EACH,
    FIELDS,
    JUDGED,
    KINDS,
    calls,
    described,
    documents,
    judged,
    manuals,
    neighbours,
    shortcut,
    translations,
)
from made.triplets import TRIPLETS, WRONG, triplets
from made.writing import folders, pictured

from nearfar.sources import open_data


def opened(name: str, out: Path, tiny: bool = False, seed: int = 0) -> Any:
    """The data set of that name. tiny: few rows of it, for a run that only looks for crashes. seed: of the splits,
    where it has none of its own."""
    return SETS[name].open(out, tiny, seed)


@dataclass(frozen=True)
class Set:
    """words: for tables. make: what the library is given, from the folder of files; roles: what it is told of it;
    tiny: how many rows are enough to look for crashes; small: what is made for that, where the whole is dear; drawn:
    whether each seed draws other rows: `make` takes it too; described: the file of the attributes of its classes."""

    words: str
    make: Callable[..., Any]
    roles: Mapping[str, Any] = field(default_factory=dict)
    tiny: int = 200
    small: Callable[[Path], Any] | None = None
    drawn: bool = False
    described: Callable[[Path], Any] | None = None

    def open(self, out: Path, tiny: bool, seed: int) -> Any:
        make = self.small if tiny and self.small is not None else self.make
        make = partial(make, seed=seed) if self.drawn else make
        told = {} if self.described is None else {"class_attributes": self.described(out)}
        return open_data(make(out), limit=self.tiny if tiny else None, seed=seed, **self.roles, **told)


def shortcut_set(share: float) -> Set:
    roles = {"text": "sentence", "target": "package", "domain": "part", "unit": "number", "split": "split"}
    words = f"docstring sentences of three packages behind a word that agrees in {share:.0%} of the training rows"
    return Set(f"{words}, 600 / 150 / 800", partial(shortcut, share, None), {"roles": roles}, tiny=1550,
               small=partial(shortcut, share, KINDS))  # fmt: skip


def bag_set(ratio: float, permuted: bool = False) -> Set:
    words = f"bags of {BAG} scikit-learn digits, half of them with {ratio:.0%} nines, 240 / 40 / 120"
    roles = {"vector": ["p[0-9]*"], "bag": "bag", "target": "bag label", "label": ["digit"], "split": "split"}
    return Set(words + (", training labels permuted" if permuted else ""), partial(bags, ratio, permuted),
               {"roles": roles}, tiny=4000)  # fmt: skip


def triplet_set(words: str, name: str, count: int = TRIPLETS, most: int = 0, wrong: float = WRONG) -> Set:
    roles = {"text": "sentence", "text_b": "positive", "negative": ["negative"], "score": "grade", "split": "split"}
    small = partial(triplets, f"{name}-tiny", 120, 30 if most else 0, wrong, 4000)
    return Set(words, partial(triplets, name, count, most, wrong, None), {"roles": roles}, small=small, tiny=4000)


TWO = ("networkx", "scikit-learn")  # what runs that only look for crashes read
FEW_EACH, FEW_DOCUMENTS = {"train": 60, "val": 20, "test": 40}, {"train": 130, "val": 20, "test": 50}
DESCRIBED = {"roles": {"text": "summary", "text_b": "rest", "domain": "package", "pair_label": "label",
                       "split": "split"}}  # fmt: skip


MANUAL_ROLES = {"text": "sentence", "text_b": "other", "group": "page", "domain": "domain", "label": ["tongue"],
                "split": "split"}  # fmt: skip


SETS = {
    "digits": Set("scikit-learn digits, 1200 / 200 / 397", lambda out: folders("digits", digits, out), tiny=1500),
    "digits, imbalanced": Set("scikit-learn digits, 120 x 0.65^c of class c / 200 / 397",
                              lambda out: folders("digits-imbalanced", imbalanced, out), tiny=1500),
    "digits, new classes": Set("scikit-learn digits, trained on 0 to 4, episodes on 5 to 9",
                               lambda out: folders("digits-new-classes", new_classes, out), tiny=1500),
    "digits, three new classes": Set(
        "scikit-learn digits, trained on 0 to 6, episodes on 7 to 9",
        lambda out: folders("digits-three-new-classes", partial(new_classes, 7), out), tiny=1500),
    "digits as numbers, new classes": Set("scikit-learn digits as 64 numbers, trained on 0 to 5, episodes on 6 to 9",
                                          numbers_of_new_classes,
                                          {"roles": {"vector": [f"ink_{i}" for i in range(64)], "label": ["digit"],
                                                     "split": "split"}}, tiny=1500),
    "two digits": Set("pairs of scikit-learn digits side by side, the right one at 0.4, 1200 / 200 / 600",
                      partial(pictured, "two-digits", ("strong", "weak"), two_digits),
                      {"roles": {"image": "image", "label": ["weak"], "split": "split"}}),
    "two digits, captions": Set("two digits side by side, the right one at 0.4, captions, 1200 / 200 / 600",
                                partial(pictured, "two-digits-captions", ("caption", "strong", "weak"),
                                        two_digits_with_words),
                                {"roles": {"image": "image", "text": "caption", "label": ["weak"],
                                           "split": "split"}}),
    "digits on photographs": Set("patches of eight photographs, half of them with a digit on it, 2000 / 300 / 600",
                                 partial(pictured, "digits-on-photographs", ("set", "photo", "digit"),
                                         partial(mixed, digits_on_photographs)),
                                 {"roles": {"image": "image", "domain": "set", "label": ["photo", "digit"],
                                            "split": "split"}}, tiny=400),
    "emoji on photographs": Set("patches of eight photographs, half of them with an emoji on it, 2000 / 300 / 600",
                                partial(pictured, "emoji-on-photographs", ("set", "photo", "category"),
                                        partial(mixed, emoji_on_photographs)),
                                {"roles": {"image": "image", "domain": "set", "label": ["photo", "category"],
                                           "split": "split"}}, tiny=400),
    "digit operations": Set("scikit-learn digits under eight operations, 50 compositions trained on, 15 tested",
                            lambda out: "digit-operations", tiny=1500),
    "digit captions": Set("the other digits under operations, with captions that lack words or hold wrong ones",
                          lambda out: "digit-captions"),
    "emoji tones": Set("drawings of 49 gestures in five skin tones", lambda out: "emoji-tones", tiny=735),
    "digit-series": Set("scikit-learn digits as series of 64 steps", lambda out: "digit-series", tiny=300),
    "motions": Set("BasicMotions, 34 / 6 / 40", lambda out: "motions", tiny=80),
    "vowels": Set("JapaneseVowels, 230 / 40 / 370", lambda out: "vowels"),
    "diabetes": Set("scikit-learn diabetes, 310 / 66 / 66", lambda out: "diabetes", tiny=120),
    "diabetes, permuted": Set("scikit-learn diabetes, the target of another row in each", diabetes_permuted,
                              {"roles": {"target": "progression"}}, tiny=120),
    "digits, turned": Set("scikit-learn digits turned by -60 to 60 degrees, 400 / 200 / 397",
                          partial(pictured, "digits-turned", ("angle",), turned),
                          {"roles": {"image": "image", "target": "angle", "split": "split"}}, tiny=997),
    "digits, turned, permuted": Set("scikit-learn digits turned, training angles permuted",
                                    partial(pictured, "digits-turned-permuted", ("angle",), turned_permuted),
                                    {"roles": {"image": "image", "target": "angle", "split": "split"}}, tiny=997),
    "emoji": Set("emoji in four styles, emoji never trained on", lambda out: "emoji"),
    "emoji, new subgroups": Set("emoji of one style, trained on half of the subgroups, episodes on the others",
                                subgroups, {"roles": {"image": "image", "label": ["subgroup"], "split": "split"}},
                                tiny=2000),
    "emoji, subcategories": Set("emoji in four styles with their subcategory, emoji never trained on",
                                lambda out: "emoji", {"roles": {"target": "subcategory"}}),
    "scenes": Set("scenes of emoji on photographs, 1000 / 250 / 350", lambda out: "scenes", tiny=60),
    "digit bags, 0.1": bag_set(0.1),
    "digit bags, 0.2": bag_set(0.2),
    "digit bags, 0.5": bag_set(0.5),
    "digit bags, 0.2, permuted": bag_set(0.2, permuted=True),
    "sentences": Set("sentences of docstrings, and graded pairs of them", lambda out: "sentences", tiny=4000),
    "judged docstrings": Set("pairs of docstring sentences, a label for a fifth of 4,000 training pairs / 500 / 1,200",
                             partial(judged, JUDGED, 250),
                             {"roles": {"text": "first", "text_b": "second", "pair_label": "few", "split": "split"}},
                             small=partial(judged, {"train": 120, "val": 40, "test": 40}, 2)),
    "judged docstrings, all": Set("the same pairs, all of them labelled", partial(judged, JUDGED, 250),
                                  {"roles": {"text": "first", "text_b": "second", "pair_label": "label",
                                             "split": "split"}},
                                  small=partial(judged, {"train": 120, "val": 40, "test": 40}, 2)),
    "described": Set("summaries and bodies of docstrings of five packages, 500 / 100 / 300 of each",
                     partial(described, EACH, FIELDS, None), DESCRIBED, tiny=600,
                     small=partial(described, FEW_EACH, TWO, None)),
    "described, scipy": Set("the same, trained on those of scipy alone",
                            partial(described, EACH, FIELDS, "scipy"), DESCRIBED, tiny=600,
                            small=partial(described, FEW_EACH, TWO, "networkx")),
    "calls": Set("first sentences of docstrings of 60 modules, a tree of package, module, arguments and defaults for a "
                 "fifth of the training rows, about 1,150 / 240 / 600", partial(calls, 0.2),
                 {"roles": {"text": "text", "tree": "tree", "split": "split"}}, tiny=600),
    "neighbours": Set("sentences of 540 manual pages in English, German and French; test: neighbours in pages never "
                      "trained on", partial(manuals, "neighbours", neighbours), {"roles": MANUAL_ROLES}, tiny=1500),
    "translations": Set("the same pages; test: 1,000 messages of programs in English with their translation, of each "
                        "language", partial(manuals, "translations", translations), {"roles": MANUAL_ROLES},
                        tiny=1500),
    "shortcut, 0.8": shortcut_set(0.8),
    "shortcut, 0.6": shortcut_set(0.6),
    "shortcut, 0.33": shortcut_set(1 / 3),
    "near digits, 800": Set("800 scikit-learn digits, each joined to its 8 nearest, 80 / 80 / 640",
                            partial(near_digits, 800, 9, (0.1, 0.1, 0.8)), tiny=800),
    "near digits, 1797": Set("scikit-learn digits, 1,797 nodes, each joined to its 3 nearest, half of them measured",
                             partial(near_digits, 1797, 4, (0.01, 0.49, 0.5)), tiny=1797,
                             small=partial(near_digits, 200, 4, (0.1, 0.4, 0.5))),
    "modules": Set("modules of scikit-learn, scipy and networkx that import each other, a tenth of them labelled",
                   partial(modules, ("scikit-learn", "scipy", "networkx"), (0.1, 0.1, 0.8)), tiny=800),
    "modules, ten of each": Set(
        "modules of scikit-learn, scipy and networkx that import each other, ten labelled of each part",
        partial(modules, ("scikit-learn", "scipy", "networkx"), 10), tiny=800,
        small=partial(modules, ("networkx",), 4)),
    "modules and names": Set(
        "modules of scikit-learn, scipy and networkx that import each other, and the names that they use as nodes of "
        "another type, a tenth of the modules labelled",
        partial(modules, ("scikit-learn", "scipy", "networkx"), (0.1, 0.1, 0.8), with_names=True), tiny=5000,
        small=partial(modules, ("networkx",), (0.3, 0.2, 0.5), with_names=True)),
    "documents": Set("docstrings of installed packages and their summaries, 6,000 / 1,000 / 3,000",
                     partial(documents, DOCUMENTS, None),
                     {"roles": {"text": "summary", "text_b": "document", "split": "split"}},
                     small=partial(documents, FEW_DOCUMENTS, TWO)),
    "documents alone": Set("the same docstrings without summaries", partial(documents, DOCUMENTS, None),
                           {"roles": {"text": "document", "split": "split"}},
                           small=partial(documents, FEW_DOCUMENTS, TWO)),
    "triplets": triplet_set("5,000 triplets of docstring sentences, 35 % in the wrong order; graded pairs", "wrong"),
    "triplets, right": triplet_set("the same triplets, all in the right order", "right", wrong=0),
    "triplets, more": triplet_set("8,000 such triplets, 35 % in the wrong order", "more", count=8000),
    "triplets, crowded": triplet_set("3,000 such triplets of 100 docstrings alone, all in the right order", "crowded",
                                     count=3000, most=100, wrong=0),
    "movielens": Set("MovieLens-100k, the last film of each user among 1,679, 97,171 / 943 / 943",
                     lambda out: "movielens", small=walks, tiny=2000),
    "functions": Set("functions and their summaries", lambda out: "functions"),
    "code": Set("the code of functions alone", lambda out: "functions", {"roles": {"text": "code", "text_b": None}}),
    "scenes of two": Set("two emoji side by side and which is left or right of which, 2000 / 200 / 500",
                         lambda out: pictured("scenes-of-two", ["caption"], scenes_of_two, out),
                         {"roles": {"image": "image", "text": "caption", "split": "split"}}, tiny=2700),
    "digits in bands": Set("scikit-learn digits with noise, in three bands, 100 / 100 / 400, drawn anew each seed",
                           bands_of_digits, {"roles": {"vector": ["top_*", "middle_*", "bottom_*"], "target": "digit",
                                                       "split": "split"}}, tiny=600, drawn=True),
    "digits in bands, 200": Set("the same with 200 training rows", partial(bands_of_digits, train=200),
                                {"roles": {"vector": ["top_*", "middle_*", "bottom_*"], "target": "digit",
                                           "split": "split"}}, tiny=700, drawn=True),
    "breast-cancer": Set("scikit-learn breast cancer, 398 / 85 / 86", lambda out: "breast-cancer", tiny=200),
    "emoji with words": Set("one emoji of each family with its keywords and category, 300 / 150 / 600, drawn anew each "
                            "seed", emoji_with_words, {"roles": {"image": "image", "text": "keywords",
                                                                 "target": "category", "split": "split"}},
                            tiny=1050, drawn=True),
    "digit operations, long-tailed": Set(
        "digits under eight operations, 50 / 15 / 15 compositions; attributes of a digit by 1 / rank in training",
        partial(pictured, "digit-operations-long-tailed", ("attribute", "digit"),
                partial(mixed, long_tailed_operations)),
        {"roles": {"image": "image", "attribute": ["attribute"], "object": "digit", "split": "split"}}, tiny=1200),
    "digits, described": Set(
        "scikit-learn digits and 15 facts of each digit's shape, six classes trained on, two others in validation and "
        "two in test, drawn anew each seed", described_digits,
        {"roles": {"image": "image", "target": "digit", "label": [], "split": "split"}}, tiny=1797, drawn=True,
        described=digit_facts),
    "names": Set("emoji and their names", lambda out: names(out, "all")),
    "names, 300": Set("emoji and their names, 300 of the training pairs", lambda out: names(out, "300")),
    "names, shuffled": Set("emoji and their names, 30 % of the training names exchanged",
                           lambda out: names(out, "shuffled")),
}  # fmt: skip
