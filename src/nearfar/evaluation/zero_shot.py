"""Classes by their names: templates, the vector of a class, the class that an item is nearest to.

names x templates --text tower--> unit vectors --mean over templates, unit--> one vector a class
class of an item = the nearest of them (Radford et al., ICML 2021, sec. 3.1)
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import InputError
from nearfar.vectors import GRID, as_vectors, normalise

if TYPE_CHECKING:
    from nearfar.evaluation.embedding import Embed

SLOT = "{}"


def read_templates(given: str | None) -> list[str]:
    """Sentences with {} in the place of a class: None gives the class alone; a text with {} stands for itself; else a
    file of them, one on each line.

    Raises InputError for a file that cannot be read, and for a template without {}, by its line.
    """
    if given is None:
        return [SLOT]
    if SLOT in given:
        return [given]
    path = Path(given)
    if not os.path.isfile(given):  # False, too, for a text that is too long for a path
        raise InputError(f"'{given[:200]}' is neither a file of templates nor a template: it has no {SLOT}.",
                         f"Write a sentence with {SLOT} where the class stands, or a file of such lines.")  # fmt: skip
    lines = read_text(path).splitlines()
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    for number, line in found:
        if SLOT not in line:
            raise InputError(f"{path}, line {number}: the template '{line[:80]}' has no {SLOT}.",
                             f"Write {SLOT} where the class stands.")  # fmt: skip
    if not found:
        raise InputError(f"{path} holds no template.", "Write one on each line.")
    return list(dict.fromkeys(line for _, line in found))


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.", "Give a text file in UTF-8.") from error


def read_class_names(path: str | Path) -> dict[str, list[str]]:
    """Class -> its names, of a JSON object {class: name or names} or a table (csv, tsv) of two columns, class and name,
    with one line a name and no header. Raises InputError for anything else."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file of class names '{path}'.")
    text = read_text(path)
    found: dict[str, list[str]] = {}
    if path.suffix.lower() == ".json":
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not JSON: {error}.") from error
        if not isinstance(given, dict):
            raise InputError(f"{path} must hold an object {{class: name or names}}.")
        found = {str(k): [str(one) for one in (v if isinstance(v, list) else [v])] for k, v in given.items()}
    else:
        divider = "\t" if path.suffix.lower() == ".tsv" else ","
        for number, row in enumerate(csv.reader(text.splitlines(), delimiter=divider), 1):
            if len(row) != 2:
                raise InputError(f"{path}, line {number}: a class and a name are expected, not {len(row)} cells.")
            found.setdefault(row[0].strip(), []).append(row[1].strip())
    empty = next((k for k, names in found.items() if not names or not all(name.strip() for name in names)), None)
    if empty is not None or not found:
        raise InputError(f"{path}: the class '{empty}' has an empty name." if found else f"{path} holds no class.")
    return found


def in_words(name: str) -> str:
    """A class as words: `golden_retriever` -> "golden retriever"."""
    return " ".join(name.replace("_", " ").split())


def names_of(classes: Sequence[str], given: Mapping[str, Sequence[str]] | None = None) -> list[list[str]]:
    """The names of each class: those given, else its own in words.

    Raises InputError for a class without a name, and for two classes of the same names, which nothing tells apart."""
    missing = [] if given is None else [name for name in classes if name not in given]
    if missing:
        raise InputError(f"The class '{missing[0]}' has no name in the file of class names"
                         + (f" (nor have {len(missing) - 1} others)." if len(missing) > 1 else "."))  # fmt: skip
    found = [[in_words(name)] if given is None else [in_words(one) for one in given[name]] for name in classes]
    empty = next((name for name, words in zip(classes, found, strict=True) if not all(words)), None)
    if empty is not None:
        raise InputError(f"The class '{empty}' has no words.", "Name it: --class-names FILE.")
    seen: dict[frozenset[str], str] = {}
    for name, words in zip(classes, found, strict=True):
        key = frozenset(word.casefold() for word in words)
        if key in seen:
            raise InputError(f"The classes '{seen[key]}' and '{name}' have the same names: nothing tells them apart.",
                             "Name them apart: --class-names FILE.")  # fmt: skip
        seen[key] = name
    return found


def prompts_of(names: Sequence[Sequence[str]], templates: Sequence[str]) -> list[list[str]]:
    """For each class all its names in all templates."""
    return [[template.replace(SLOT, name) for name in words for template in templates] for words in names]


def class_vectors(
    prompts: Sequence[Sequence[str]], embed: Callable[[list[str]], Any], blocks: Sequence[int] = ()
) -> np.ndarray:
    """One unit vector a class, float64 (C, d): the mean of the unit vectors of its prompts, brought to length 1.

    embed: texts -> (n, d). blocks: the widths of vectors that stand side by side in each, whose cosines are weighed by
    their squared lengths: the mean of each is brought back to its length, so that a class has a vector of each."""
    flat = [text for texts in prompts for text in texts]
    z = normalise(as_vectors(embed(flat)))
    ends = np.cumsum([len(texts) for texts in prompts])[:-1]
    made = np.stack([part.mean(0) for part in np.split(z, ends)])
    if len(blocks) > 1:
        parts = [np.split(x, np.cumsum(blocks)[:-1], axis=1) for x in (made, z)]
        lengths = [np.sqrt(np.square(own).sum(1).mean()) for own in parts[1]]
        made = np.concatenate([x * normalise(own) for x, own in zip(lengths, parts[0], strict=True)], axis=1)
    return normalise(made)


def vectors_of_classes(embed: Embed, names: Sequence[Sequence[str]], templates: Sequence[str]) -> np.ndarray:
    """`class_vectors` by the tower of texts of a model. Raises InputError for a prompt longer than it reads."""
    prompts = prompts_of(names, templates)
    embed.check_whole("text", [text for texts in prompts for text in texts])
    return class_vectors(prompts, lambda texts: embed.items("text", texts), embed.blocks("text"))


def class_hits(scores: np.ndarray, truth: np.ndarray, k: int = 1) -> np.ndarray:
    """How far the true class is among the k best, (n,) 0..1; of ties the expected value over their orders, so that
    equal scores of all C classes give k / C. scores: (n, C); truth: (n,)."""
    mine = np.take_along_axis(scores, truth[:, None], 1)
    better, equal = (scores > mine).sum(1), (scores == mine).sum(1)
    return np.clip((k - better) / equal, 0.0, 1.0)


def class_scores(vectors: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Products (n, C) of items (n, d) and classes (C, d), in float64 and on a grid of 2^-24, so that equal vectors get
    equal scores wherever they stand."""
    return np.round(np.asarray(vectors, np.float64) @ np.asarray(classes, np.float64).T * GRID) / GRID
