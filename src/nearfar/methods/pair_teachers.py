"""Where the scores come from that a student of pairs learns: columns of the data, or a model that reads both texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import ClassLabel
from torch import Tensor

from nearfar.encoders.pretrained import longest_text
from nearfar.errors import InputError, did_you_mean
from nearfar.losses import margin
from nearfar.methods.inference import Request
from nearfar.methods.judged import BATCH, SIDES, JointScorer, PairAnswers, learned
from nearfar.sources.data import label_words, natural
from nearfar.sources.judgements import pair_label, score, word

if TYPE_CHECKING:
    from nearfar.sources.data import Data

COLUMN = "teacher"
INFERENCE = ("entailment", "neutral", "contradiction")
NUMBERED = re.compile(r"(?:label_)?(\d+)", re.IGNORECASE)
HOW = "Name columns of scores (--teacher COLUMN), train one (nearfar fit cross-encoder DATA --out runs/teacher; \
then --teacher runs/teacher), or learn from labels alone (--alpha 0)."


def columns_named(data: Data) -> list[str]:
    """The columns called teacher, else teacher_CLASS in natural order."""
    known = list(data.table.column_names)
    found = [name for name in known if name == COLUMN]
    return found or sorted((n for n in known if n.startswith(COLUMN + "_")), key=lambda n: natural(_class(n)))


def columns_of(data: Data, wanted: str, names: Sequence[str] = ()) -> list[str]:
    """The columns that hold the scores, in the order of the classes' names (of a binary label: 0, then 1); none where
    `wanted` is a folder. "auto": those that are called teacher or teacher_CLASS.

    Raises InputError for neither, and for a name of both.
    """
    known = list(data.table.column_names)
    if wanted == "auto":
        found = columns_named(data)
        if not found:
            raise InputError(f"{data.name} has no column '{COLUMN}' with the scores of a teacher.", HOW)
        places = places_of([_class(name) for name in found], names, numbers_in(data, names))
        return [found[k] for k in places] if places else found
    columns, folder = [name.strip() for name in wanted.split(",")], Path(wanted).is_dir()
    if all(name in known for name in columns):
        if folder:
            raise InputError(f"The teacher '{wanted}' is a column of {data.name} and a folder as well.",
                             f"Write ./{wanted} for the folder; for the column, rename one of them.")  # fmt: skip
        return columns
    if folder:
        return []
    raise InputError(f"The teacher '{wanted}' is no column of {data.name} and no folder."
                     f"{did_you_mean(columns[0], known)}", HOW)  # fmt: skip


def _class(column: str) -> str:
    return column.removeprefix(COLUMN + "_")


def numbers_in(data: Data, names: Sequence[str]) -> Sequence[str]:
    """The names of the label's numbers 0, 1, ... in the data; none where the numbers have no names."""
    if names:
        feature = data.table.features[data.column("target")]
        return feature.names if isinstance(feature, ClassLabel) else ()
    if "pair_label" not in data.roles:
        return ()
    found, inference = label_words(data.table, data.roles)
    return INFERENCE if inference else found or ()


def places_of(told: Sequence[str], names: Sequence[str], numbers: Sequence[str]) -> list[int] | None:
    """Where the classes stand among the names that a teacher gives them: by name, by number ("LABEL_1" or "1": of the
    data's own numbering, `numbers`), or as yes and no. Without `names`: where no and yes stand. None where none of this
    fits."""
    meant = [_meant(name, numbers) for name in told]
    by_name = ((told, word), (meant, word)) if names else ()
    for labels, form in (*by_name, (meant, pair_label)):
        own, wanted = [form(name) for name in labels], [form(name) for name in names or ("0", "1")]
        if len(own) == len(wanted) == len({*own}) and {*own} == {*wanted} and None not in own:
            return [own.index(name) for name in wanted]
    return None


def _meant(name: str, numbers: Sequence[str]) -> str:
    found = NUMBERED.fullmatch(name)
    k = int(found[1]) if found else -1
    return numbers[k] if 0 <= k < len(numbers) else str(k) if found and not numbers else name


def scores_in(data: Data, columns: Sequence[str], outputs: int, binary: bool, names: Sequence[str] = ()) -> Tensor:
    """float (N, outputs) of the columns, NaN for empty cells; two columns of a binary label become their margin.

    Raises InputError for another number of columns, and for a cell that is no finite number.
    """
    if len(columns) != outputs and not (binary and len(columns) == 2):
        zero, one = (f"'{name}'" for name in names) if binary and names else ("label 0", "label 1")
        wanted = f"one column (the score of {one}), or two: that of {zero}, then that of {one}" if binary else (
            f"{outputs}, in the order {', '.join(names)}: --teacher A,B,..." if names else "one column")  # fmt: skip
        raise InputError(f"The teacher has {len(columns)} columns ({', '.join(columns)}), and the student tells "
                         f"{outputs} number{'s' if outputs > 1 else ''}.", f"Name {wanted}.")  # fmt: skip
    found = np.full((len(data), len(columns)), np.nan)
    for k, column in enumerate(columns):
        for row, cell in enumerate(data.values(column)):
            value = score(cell)
            if value is None and str(cell if cell is not None else "").strip().casefold() not in ("", "nan", "none"):
                raise InputError(
                    f"{data.name}, row {data.keys[row]}: the teacher's score '{str(cell)[:40]}' in '{column}' is not a "
                    "finite number.",
                    "Mend the cell, or leave it empty.",
                )
            found[row, k] = np.nan if value is None else value
    made = torch.from_numpy(found).float()
    return margin(made) if binary and len(columns) == 2 else made


def in_words(columns: Sequence[str], names: Sequence[str], binary: bool) -> str:
    """Which column is taken for what, in words."""
    if binary and len(columns) == 2:
        return f"{columns[1]} - {columns[0]}"
    return " ".join(f"{name}={column}" for name, column in zip(names, columns)) if len(columns) > 1 else columns[0]


@torch.no_grad()
def scores_by(folder: str, data: Data, rows: np.ndarray, judgement: str, names: Sequence[str]) -> Tensor:
    """float (len(rows), outputs): what a model says of the pairs, in evaluation mode. folder: of a run or model of
    `cross-encoder`, or of a sequence classifier of transformers.

    Raises InputError for another model, for one that tells something else than the student learns, and for one whose
    outputs cannot be told apart.
    """
    path = Path(folder)
    place = path / "model" if (path / "model" / "config.json").is_file() else path
    if (place / "verify.json").is_file():
        return _by_ours(place, data, rows, judgement, names)
    return _by_transformers(place, data, rows, judgement, names)


def _by_ours(place: Path, data: Data, rows: np.ndarray, judgement: str, names: Sequence[str]) -> Tensor:
    from nearfar import models

    found: Any = models.load(place).inference
    if not (isinstance(found, PairAnswers) and isinstance(found.scorer, JointScorer)):
        raise InputError(f"The model in {place} does not read both texts of a pair together.", HOW)
    if found.judgement != judgement or found.names != list(names):
        own, wanted = (", ".join(x) or learned(kind, ()) for kind, x in ((found.judgement, found.names),
                                                                         (judgement, names)))  # fmt: skip
        raise InputError(f"The teacher in {place} tells {own}, and the student learns {wanted}.",
                         "Train both on the same column.")  # fmt: skip
    return found.scorer.logits(Request(data, rows, None)).cpu()


def _by_transformers(place: Path, data: Data, rows: np.ndarray, judgement: str, names: Sequence[str]) -> Tensor:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from nearfar.encoders.quiet import quiet

    try:
        with quiet():
            model: Any = AutoModelForSequenceClassification.from_pretrained(place, local_files_only=True).eval()
            tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:
        raise InputError(f"{place} holds no model of pairs: {error}", HOW) from error
    order = _order(model.config, judgement, names, numbers_in(data, names), place)
    parts, texts = [], [data.texts(role, rows) for role in SIDES]
    longest = longest_text(tokenizer, model)
    for start in range(0, len(rows), BATCH):
        a, b = (side[start : start + BATCH] for side in texts)
        x = tokenizer(a, b, truncation=True, max_length=longest, padding=True, return_tensors="pt")
        parts.append(model(**x).logits.float())
    made = torch.cat(parts)[:, order]
    return margin(made) if judgement == "binary" and len(order) == 2 else made


def _order(config: Any, judgement: str, names: Sequence[str], numbers: Sequence[str], place: Path) -> list[int]:
    """Where the model's outputs of the classes stand (of a binary label: of 0 and of 1); one number is taken as it is.
    Raises InputError where they are others, or are not named so that it can be told."""
    own = [str(config.id2label[k]) for k in range(config.num_labels)]
    if len(own) == 1 and judgement != "classes":
        return [0]
    found = None if judgement == "number" else places_of(own, names, numbers)
    if found is None:
        wanted = ", ".join(names) or learned(judgement, names)
        unlike = f"The model in {place} tells {', '.join(own)}, and the student learns {wanted}"
        if judgement == "number" or len(own) != max(2, len(names)):
            raise InputError(f"{unlike}.", HOW)
        raise InputError(
            f"{unlike}: which is which, the names do not say.",
            f"Write the classes into 'id2label' of {place / 'config.json'}, in the order of the model's outputs.",
        )
    return found


__all__ = ["HOW", "columns_of", "in_words", "scores_by", "scores_in"]
