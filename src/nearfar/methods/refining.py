"""Triplets made and refined as options say: stages 1 and 2 of MultiCSR (Wang et al., NAACL 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nearfar.errors import InputError
from nearfar.methods.language_models import LanguageModel
from nearfar.methods.triplet_scores import Lines, Refined, lines_of, refined, score_columns, scores_in, scores_of
from nearfar.methods.triplets import Triplets, check_some, of_columns, of_documents, written

if TYPE_CHECKING:
    from nearfar.sources.data import Data

CURATION, AT_ONCE, TOKENS = "3/3+gap", 16, 256


@dataclass
class Refining:
    """The options of `MultiCSR` of these names; at_once: of `generator_batch`, most: of `generator_tokens`. Raises
    InputError for a curation that is none."""

    generator: str = "auto"
    contrast: float = 0.0
    scorer: str | None = "auto"
    at_once: int = AT_ONCE
    most: int = TOKENS
    swap: bool = True
    curation: str | None = CURATION
    lines: Lines | None = field(init=False)

    def __post_init__(self):
        self.lines = lines_of(self.curation)

    def of(self, data: Data, rows: np.ndarray, seed: int) -> Refined:
        """The triplets of some rows, their scores, and which are kept. Raises InputError where there are none."""
        told: dict[str, Any] = {}
        source, model = self.source(data)
        columns, judge = self.scored_by(data, source, model)
        if self.at_once != AT_ONCE and model is None and judge is None:
            raise InputError(f"--generator-batch {self.at_once} has no effect: no language model is asked.",
                             "Name one (--generator FOLDER or --scorer FOLDER), or leave it out.")  # fmt: skip
        made = self.triplets(data, rows, source, model, seed)
        if source == "columns" and data.positives is not None:
            told["no_pairs"] = int((~data.positives[rows]).sum())
            rows = rows[data.positives[rows]]
        check_some(data, made, rows, source)
        scores, how, whole = None, "none (no swap, no curation)", rows[made.whole[rows]]
        if columns:
            scores, how = scores_in(data, columns, whole), ",".join(columns)
        elif judge is not None:
            scores, how = scores_of(made, whole, judge), f"said by {judge.folder.name}"
        found = refined(made, rows, scores, self.swap, self.lines)
        by = {} if model is None else {"triplets": f"written by {model.folder.name}"}
        told = {"triplets": source, "scores": how} | by | told | found.told
        return Refined(found.triplets, found.rows, told)

    def source(self, data: Data) -> tuple[str, LanguageModel | None]:
        """Where the triplets come from: "columns", "documents", or "model" with the language model."""
        source = self.generator
        if source == "auto":
            if lacking := lacks_triplets(data):
                raise InputError(f"multicsr {lacking}. {data.name} holds none of them.", "Name what there is.")
            held = data.training_roles
            source = "columns" if held.get("text_b") and held.get("negative") else "documents"
        if source not in ("columns", "documents"):
            return "model", LanguageModel(source, self.at_once)
        for name, value, idle in (("contrast", self.contrast, 0), ("generator-tokens", self.most, TOKENS)):
            if value != idle:
                raise InputError(f"--{name} {value:g} has no effect: no language model writes the triplets.",
                                 f"Name one (--generator FOLDER), or leave out --{name}.")  # fmt: skip
        return source, None

    def triplets(
        self, data: Data, rows: np.ndarray, source: str, model: LanguageModel | None, seed: int
    ) -> Triplets:  # fmt: skip
        """The triplets from that source, before stage 1's swap."""
        if model is not None:
            return written(data, rows, model, self.contrast, self.most)
        return of_columns(data) if source == "columns" else of_documents(data, rows, seed)

    def scored_by(self, data: Data, source: str, model: LanguageModel | None) -> tuple[list[str], LanguageModel | None]:
        """Columns or a language model that score the triplets; neither where nothing does. model: the one that writes
        them. Raises InputError for what has no effect."""
        asked, refines = self.scorer not in (None, "auto"), self.swap or self.lines is not None
        if asked and not refines:
            raise InputError(f"--scorer {self.scorer} has no effect with --swap false --curation none.",
                             "Leave out --scorer, or one of the others.")  # fmt: skip
        columns: list[str] = []
        if self.scorer is not None and (asked or source == "columns"):
            columns = score_columns(data, self.scorer)
        if columns and source != "columns":
            raise InputError(f"--scorer {self.scorer} names columns, which score triplets of columns; here they come "
                             f"from {'a language model' if model else 'documents'}.",
                             "Use --scorer FOLDER (a language model), or leave it out.")  # fmt: skip
        if asked and not columns:
            model = LanguageModel(str(self.scorer), self.at_once)
        elif columns or self.scorer is None:
            model = None
        if refines and not columns and model is None and (not self.swap or self.curation not in (CURATION, None)):
            raise InputError("--swap and --curation have no effect: the triplets have no scores.",
                             "Give them (--scorer A,B or --scorer FOLDER), or leave both out.")  # fmt: skip
        return (columns, model) if refines else ([], None)


def lacks_triplets(data: Data) -> str:
    """What data without triplets need, in words; "" where they have columns of them, or documents."""
    held = data.training_roles
    if data.groups is not None or (held.get("text_b") and held.get("negative")):
        return ""
    return "needs triplets (--text-b, --negative), documents (--group) or a language model (--generator FOLDER)"


__all__ = ["AT_ONCE", "CURATION", "TOKENS", "Refining", "lacks_triplets"]
