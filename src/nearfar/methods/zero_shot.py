"""What every model with a tower of texts answers: which of some classes, named by the user, an item is nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nearfar.checks import PositiveInt
from nearfar.errors import InputError
from nearfar.evaluation.zero_shot import (
    class_scores,
    names_of,
    read_class_names,
    read_templates,
    read_text,
    vectors_of_classes,
)
from nearfar.methods.inference import Inference, Request

TABLES = (".csv", ".tsv", ".json")


@dataclass
class Options:
    """Classes by their names.

    Args:
        classes: their names, divided by commas, or a file: .txt with one on each line; .csv or .tsv of class and name,
            or .json {class: name or names}, where a class has other or several names.
        templates: a sentence with {} where the class stands ("a photo of a {}."), or a file of them, one on each line.
            Default the class alone.
        top: how many classes are named for each row, the nearest first.
    """

    classes: str | None = None
    templates: str | None = None
    top: PositiveInt = 1


def read_classes(given: str | Sequence[str] | None) -> tuple[list[str], list[list[str]]]:
    """Classes and the names of each, from `Options.classes`.

    Raises InputError for none, for one alone, for an unreadable file, and for classes with equal names."""
    if given is None or not len(given):
        raise InputError("Which classes? The option '--classes' is missing.",
                         "Write --classes cat,dog,bird or the file of their names.")  # fmt: skip
    path = Path(given) if isinstance(given, str) else None
    names = None
    if path is not None and path.suffix.lower() in TABLES:
        names = read_class_names(path)
        classes = list(names)
    elif path is not None and path.suffix.lower() == ".txt":
        if not path.is_file():
            raise InputError(f"There is no file of classes '{given}'.")
        classes = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    else:
        listed = given.split(",") if isinstance(given, str) else given
        classes = [one.strip() for one in listed if one.strip()]
    if len(classes) < 2:
        raise InputError(f"At least two classes are needed. Got {', '.join(classes) or 'none'}.")
    return classes, names_of(classes, names)


class ByNames(Inference):
    """The class whose name, in the words of templates, is nearest to a row (Radford et al. 2021, sec. 3.1)."""

    options: ClassVar[type] = Options

    def predict(self, request: Request, options: Options) -> dict[str, Any]:
        """prediction and score: the nearest class and its cosine; with --top K also prediction_2, score_2, ..."""
        classes, names = read_classes(options.classes)
        vectors = vectors_of_classes(request.embed, names, read_templates(options.templates))
        scores = class_scores(np.asarray(request.vectors()), vectors)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : options.top]
        found: dict[str, Any] = {}
        for place in range(order.shape[1]):
            ending = "" if place == 0 else f"_{place + 1}"
            found[f"prediction{ending}"] = [classes[k] for k in order[:, place]]
            found[f"score{ending}"] = np.take_along_axis(scores, order[:, place, None], 1)[:, 0]
        return found
