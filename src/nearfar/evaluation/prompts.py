"""Classes and compositions told by any model: by hard prompts where it embeds texts, else by what can be read from its
vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nearfar.errors import InputError
from nearfar.evaluation.zero_shot import class_scores, read_text
from nearfar.vectors import as_vectors

Read = Literal["auto", "prompts", "classifiers"]
SCALE = 100.0  # of cosines, that of CLIP: the points of a sweep over biases lie 1e-4 below what flips an image
STRENGTH = 1.0


def embeds_texts(embed: Any) -> bool:
    """Whether a model has a tower of texts."""
    has = getattr(embed, "has", None)
    return has is not None and bool(has("text"))


def by_prompts(embed: Any, role: str, rows: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """100 times the cosine of each row and each prompt, (n, K). Raises InputError for a prompt longer than the model
    reads, and for a model without a tower of texts."""
    if not embeds_texts(embed):
        raise InputError("This model has no tower of texts that would read prompts.", "Leave out --read prompts.")
    embed.check_whole("text", list(prompts))
    return SCALE * class_scores(as_vectors(embed(role, rows)), as_vectors(embed.items("text", list(prompts))))


def attribute_readout(z: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """log p (n, classes) of rows by a logistic regression on z (m, d) with y (m,); a class without a row has the
    lowest that any has."""
    from nearfar.evaluation.probe import fit_probe

    known = np.unique(y)
    if len(known) < 2:
        raise InputError("Training rows of one attribute or one object alone tell nothing.",
                         "Give more training rows.")  # fmt: skip
    found = np.log(np.clip(fit_probe(as_vectors(z), y, STRENGTH).predict_proba(as_vectors(test)), 1e-12, 1))
    scores = np.full((len(test), classes), float(found.min()))
    scores[:, known] = found
    return scores


def ridge_onto_attributes(z: np.ndarray, attributes: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The attributes (n, K) of rows by a ridge regression on z (m, d) with those of their classes (m, K); the penalty
    by leaving one row out."""
    from sklearn.linear_model import RidgeCV

    z, test = as_vectors(z), as_vectors(test)
    mean, std = z.mean(0), z.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    fitted = RidgeCV(alphas=len(z) * np.logspace(-4, 1, 6)).fit((z - mean) / std, attributes)
    return np.asarray(fitted.predict((test - mean) / std)).reshape(len(test), -1)


def read_word_vectors(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> vector, the mean over its words, of a file as GloVe has it: a word and its numbers on each line. Raises
    InputError for another file, and for a name without a known word."""
    wanted = {word for name in names for word in _parts(name)}
    found: dict[str, np.ndarray] = {}
    for number, line in enumerate(read_text(_there(path)).splitlines(), 1):
        word, *values = line.split(" ")
        if word in wanted and word not in found:
            try:
                found[word] = np.array([float(value) for value in values if value], np.float64)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: '{line[:60]}' is not a word and its numbers.") from error
    if len({len(vector) for vector in found.values()}) > 1:
        raise InputError(f"{path}: its words have vectors of different lengths.", "Give one file of word vectors.")
    missing = [name for name in names if not any(word in found for word in _parts(name))]
    if missing:
        more = f" (nor have {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise InputError(f"{path} has no vector of '{missing[0]}'{more}.",
                         "Give word vectors of a larger vocabulary, or leave the file out.")  # fmt: skip
    return {name: np.mean([found[word] for word in _parts(name) if word in found], 0) for name in names}


def _parts(name: str) -> list[str]:
    return name.replace("-", " ").split()


def _there(path: str) -> Path:
    if not Path(path).is_file():
        raise InputError(f"There is no file of word vectors '{path}'.")
    return Path(path)
