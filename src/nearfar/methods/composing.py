"""What methods that learn attributes and objects share: the compositions of the training rows, vectors of words, and
what a finished model answers of any compositions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nearfar.checks import PositiveInt
from nearfar.errors import InputError, did_you_mean
from nearfar.methods.inference import Inference, Request
from nearfar.similarity import normalise

if TYPE_CHECKING:
    from nearfar.sources.compositions import Compositions
    from nearfar.sources.data import Data

Name = tuple[tuple[str, ...], str]
WIDTH = 300  # of drawn words, that of GloVe's


@dataclass(frozen=True)
class Trained:
    """What the training rows have. found: all compositions of the data; rows: training rows with one; seen (K,): which
    of `found` these have; pairs (K_s, m + 1): those, as in `Compositions.pairs`; of (N,): which of them each row of the
    data has, -1 for none of them; bare: training rows without one, which are left out."""

    found: Compositions
    rows: np.ndarray
    seen: np.ndarray
    pairs: np.ndarray
    of: np.ndarray
    bare: int = 0

    @property
    def words(self) -> str:
        less = f" ({self.bare:,} training rows without one are left out)" if self.bare else ""
        return f"{len(self.pairs):,} of {len(self.found):,} are trained on{less}"


def trained_compositions(data: Data, rows: np.ndarray) -> Trained:
    """Raises InputError where an attribute or an object stands in no training row."""
    from nearfar.sources.compositions import compositions, unseen_parts

    found, rows = compositions(data), np.asarray(rows)
    missing = unseen_parts(found, rows)
    if missing:
        role, name = missing[0]
        more = f" (nor have {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise InputError(f"No training row of {data.name} has the {role} '{name}'{more}: nothing can be learned of it.",
                         "Give training rows with it, or leave its rows out.")  # fmt: skip
    seen = found.within(rows)
    place = np.full(len(found), -1)
    place[seen] = np.arange(seen.sum())
    of = np.where(found.of >= 0, place[found.of], -1)
    whole = rows[found.of[rows] >= 0]
    return Trained(found, whole, seen, found.pairs[seen], of, len(rows) - len(whole))


@dataclass
class CompositionOptions:
    """Which compositions are told apart.

    Args:
        compositions: all pairs of a known attribute and object (all), those of the data that it was trained on, among
            them the ones that are only tested (known), those of training rows (seen), or names, divided by commas
            ("wet dog, old dark car"), or a .txt file of them, one on each line.
        top: how many are named for each row, the best first.
        bias: added to the scores of those that were not trained on.
    """

    compositions: str = "all"
    top: PositiveInt = 1
    bias: float = 0.0


class Composing(Inference):
    """Tells compositions of known attributes and objects; a class writes `of_compositions`.

    attributes, objects: names that it knows; known: compositions of the data it was trained on; seen: of each, whether
    a training row had it; role: of the images.
    """

    options: ClassVar[type] = CompositionOptions
    composes: ClassVar[bool] = True

    def __init__(self, attributes: Sequence[str], objects: Sequence[str], known: Sequence[Name], seen: Sequence[bool],
                 role: str = "image"):  # fmt: skip
        super().__init__()
        self.attributes, self.objects, self.role = list(attributes), list(objects), role
        self.known, self.seen = list(known), [bool(one) for one in seen]

    def config(self) -> dict[str, Any]:
        known = [[list(words), item, seen] for (words, item), seen in zip(self.known, self.seen, strict=True)]
        return {"attributes": self.attributes, "objects": self.objects, "known": known, "role": self.role}

    @staticmethod
    def names_in(config: Any) -> dict[str, Any]:
        """The constructor's arguments from `config()`."""
        known = [(tuple(words), item) for words, item, _ in config["known"]]
        return {"attributes": config["attributes"], "objects": config["objects"], "known": known,
                "seen": [seen for *_, seen in config["known"]], "role": config["role"]}  # fmt: skip

    def numbers(self, names: Sequence[Name]) -> np.ndarray:
        """(K, m + 1): attributes and object of compositions by their names, as in `Compositions.pairs`. Raises
        InputError for a name that the model does not know."""
        places = {role: {name: i for i, name in enumerate(known)} for role, known in self._sides}
        most, found = max((len(words) for words, _ in names), default=1), []
        for words, item in names:
            for role, one in [*(("attribute", one) for one in words), ("object", item)]:
                if one not in places[role]:
                    known = list(places[role])
                    raise InputError(f"This model knows no {role} '{one}'.{did_you_mean(one, known)}",
                                     f"It knows {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}."
                                     )  # fmt: skip
            row = [places["attribute"][one] for one in words]
            found.append([*row, *[-1] * (most - len(row)), places["object"][item]])
        return np.array(found, np.int64).reshape(len(names), most + 1)

    @property
    def _sides(self) -> list[tuple[str, list[str]]]:
        return [("attribute", self.attributes), ("object", self.objects)]

    def predict(self, request: Request, options: CompositionOptions) -> dict[str, Any]:
        """prediction, score and seen (whether it was trained on); with --top K also prediction_2, ..."""
        from nearfar.sources.compositions import in_words

        names = self.named(options.compositions)
        scores = self.of_compositions(request.data, request.rows, request.embed, names).float().cpu().numpy()
        trained = set(self.trained_on())
        new = np.array([name not in trained for name in names])
        order = np.argsort(-(scores + options.bias * new), axis=1, kind="stable")[:, : options.top]
        found: dict[str, Any] = {}
        for k in range(order.shape[1]):
            ending = "" if k == 0 else f"_{k + 1}"
            found[f"prediction{ending}"] = [in_words(names[i]) for i in order[:, k]]
            found[f"score{ending}"] = np.take_along_axis(scores, order[:, k, None], 1)[:, 0]
            found[f"seen{ending}"] = [not bool(new[i]) for i in order[:, k]]
        return found

    def trained_on(self) -> list[Name]:
        return [name for name, seen in zip(self.known, self.seen, strict=True) if seen]

    def named(self, said: str) -> list[Name]:
        """The compositions that `CompositionOptions.compositions` means."""
        if said == "all":
            return [((a,), o) for a in self.attributes for o in self.objects]
        if said in ("known", "seen"):
            return self.known if said == "known" else self.trained_on()
        path = Path(said)
        if path.suffix.lower() == ".txt":
            if not path.is_file():
                raise InputError(f"There is no file of compositions '{said}'.")
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        else:
            lines = said.split(",")
        found = [self.read(line.strip()) for line in lines if line.strip()]
        if not found:
            raise InputError("No composition is named.", "Write for example --compositions 'wet dog, old car', or all.")
        return list(dict.fromkeys(found))

    def read(self, words: str) -> Name:
        """ "old dark car" as known attributes and a known object. Raises InputError for what is none."""
        from nearfar.sources.compositions import clean_name

        clean = clean_name(words)
        for item in sorted(self.objects, key=len, reverse=True):
            if clean.endswith(f" {item}"):
                attributes = split_names(clean[: -len(item) - 1], self.attributes)
                if attributes:
                    return tuple(attributes), item
        raise InputError(f"'{words}' is no composition that this model knows: attributes, then an object.",
                         f"Attributes: {', '.join(self.attributes[:8])}, ...; objects: "
                         f"{', '.join(self.objects[:8])}, ...")  # fmt: skip


def split_names(words: str, known: Sequence[str]) -> list[str]:
    """A text as known names one behind the other; [] where it is none."""
    if words in known:
        return [words]
    for name in sorted(known, key=len, reverse=True):
        if words.startswith(f"{name} ") and (rest := split_names(words[len(name) + 1 :], known)):
            return [name, *rest]
    return []


def words_of(source: str, names: Sequence[str], width: int | None, generator: torch.Generator) -> Tensor:
    """Vectors (n, w) of names: unit ones drawn at random ("random"), those of a file of word vectors, or those that a
    model of texts in a folder gives. Raises InputError for another width than the source has."""
    if source == "random":
        return normalise(torch.randn(len(names), width or WIDTH, generator=generator))
    if Path(source).is_dir():
        from nearfar.models import open_model

        vectors = open_model(source).embed_texts(list(names))
    else:
        from nearfar.evaluation.prompts import read_word_vectors

        known = read_word_vectors(source, names)
        vectors = np.stack([known[name] for name in names])
    found = torch.from_numpy(np.asarray(vectors, np.float32))
    if width is not None and found.shape[1] != width:
        raise InputError(f"The vectors of {source} have {found.shape[1]} numbers, not {width} (--dim).",
                         "Leave out --dim: words and images are compared in the words' space.")  # fmt: skip
    return found


__all__ = ["Composing", "CompositionOptions", "Trained", "trained_compositions", "words_of"]
