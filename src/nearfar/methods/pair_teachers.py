"""Where the scores come from that a student of pairs learns: columns of the data, or a model that reads both texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import InputError, did_you_mean
from nearfar.losses import margin
from nearfar.methods.inference import Request
from nearfar.methods.judged import BATCH, SIDES, JointScorer, PairAnswers
from nearfar.sources.judgements import score

if TYPE_CHECKING:
    from nearfar.sources.data import Data

COLUMN = "teacher"
HOW = "Name columns of scores (--teacher COLUMN), train one (nearfar fit cross-encoder DATA --text-encoder tiny --out \
runs/teacher; then --teacher runs/teacher), or learn from labels alone (--alpha 0)."


def columns_of(data: Data, wanted: str) -> list[str]:
    """The columns that hold the scores; none where `wanted` is a folder. Raises InputError for neither."""
    known = list(data.table.column_names)
    if wanted == "auto":
        found = [name for name in known if name == COLUMN] or sorted(n for n in known if n.startswith(COLUMN + "_"))
        if not found:
            raise InputError(f"{data.name} has no column '{COLUMN}' with the scores of a teacher.", HOW)
        return found
    names = [name.strip() for name in wanted.split(",")]
    if all(name in known for name in names):
        return names
    if Path(wanted).is_dir():
        return []
    raise InputError(f"The teacher '{wanted}' is no column of {data.name} and no folder."
                     f"{did_you_mean(names[0], known)}", HOW)  # fmt: skip


def scores_in(data: Data, columns: Sequence[str], outputs: int, binary: bool) -> Tensor:
    """float (N, outputs) of the columns, NaN for empty cells; two columns of a binary label become their margin.

    Raises InputError for another number of columns, and for a cell that is no number.
    """
    if len(columns) != outputs and not (binary and len(columns) == 2):
        raise InputError(f"The teacher has {len(columns)} columns ({', '.join(columns)}), and the student tells "
                         f"{outputs} number{'s' if outputs > 1 else ''}.", f"Name {outputs}: --teacher A,B,..., in the "
                         "order of the classes' names.")  # fmt: skip
    found = np.full((len(data), len(columns)), np.nan)
    for k, column in enumerate(columns):
        for row, cell in enumerate(data.values(column)):
            value = score(cell)
            if value is None and str(cell if cell is not None else "").strip().casefold() not in ("", "nan", "none"):
                raise InputError(f"{data.name}, row {data.keys[row]}: the teacher's score '{str(cell)[:40]}' in "
                                 f"'{column}' is not a number.", "Mend the cell, or leave it empty.")  # fmt: skip
            found[row, k] = np.nan if value is None else value
    made = torch.from_numpy(found).float()
    return margin(made) if binary and len(columns) == 2 else made


@torch.no_grad()
def scores_by(folder: str, data: Data, rows: np.ndarray, judgement: str, names: Sequence[str]) -> Tensor:
    """float (len(rows), outputs): what a model says of the pairs, in evaluation mode. folder: of a run or model of
    `cross-encoder`, or of a sequence classifier of transformers.

    Raises InputError for another model, and for one that tells something else than the student learns.
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
    if found.judgement != judgement or sorted(found.names) != sorted(names):
        told = {"binary": "a label of two", "number": "a number"}
        raise InputError(f"The teacher in {place} tells {told.get(found.judgement, ', '.join(found.names))}, and the "
                         f"student learns {told.get(judgement, ', '.join(names))}.",
                         "Train both on the same column.")  # fmt: skip
    made = found.scorer.logits(Request(data, rows, None)).cpu()
    return made[:, [found.names.index(name) for name in names]] if names else made


def _by_transformers(place: Path, data: Data, rows: np.ndarray, judgement: str, names: Sequence[str]) -> Tensor:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from nearfar.encoders.quiet import quiet

    try:
        with quiet():
            model: Any = AutoModelForSequenceClassification.from_pretrained(place, local_files_only=True).eval()
            tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:
        raise InputError(f"{place} holds no model of pairs: {error}", HOW) from error
    order = _order(model.config, judgement, names, place)
    parts, texts = [], [data.texts(role, rows) for role in SIDES]
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 512)
    for start in range(0, len(rows), BATCH):
        a, b = (side[start : start + BATCH] for side in texts)
        x = tokenizer(a, b, truncation=True, max_length=longest, padding=True, return_tensors="pt")
        parts.append(model(**x).logits.float())
    made = torch.cat(parts)
    return margin(made) if judgement == "binary" and made.shape[1] == 2 else made[:, order]


def _order(config: Any, judgement: str, names: Sequence[str], place: Path) -> list[int]:
    """Where the model's outputs of the classes stand: by their names, or as they are where it does not name them."""
    told = [str(config.id2label[k]) for k in range(config.num_labels)]
    own, wanted = [name.casefold() for name in told], [name.casefold() for name in names]
    if len(told) == len(names) and sorted(own) == sorted(wanted):
        return [own.index(name) for name in wanted]
    fits = len(told) == len(names) if names else len(told) in ((1, 2) if judgement == "binary" else (1,))
    if not fits or (names and not all(name.startswith("label_") for name in own)):
        raise InputError(f"The model in {place} tells {', '.join(told)}, and the student learns "
                         f"{', '.join(names) or judgement}.", HOW)  # fmt: skip
    return list(range(len(told)))
