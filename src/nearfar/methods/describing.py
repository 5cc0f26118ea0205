"""What a model that has learned classes by their attributes answers of any described classes, with how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearfar.checks import PositiveInt
from nearfar.errors import InputError, did_you_mean
from nearfar.heads.grounding import Grounding
from nearfar.losses import evidential
from nearfar.losses.grounding import class_logits
from nearfar.methods.inference import Inference, Request
from nearfar.similarity import normalise

if TYPE_CHECKING:
    from nearfar.evaluation import Diagnostic
    from nearfar.sources.data import Data

Learned = Literal["evidential", "cross-entropy", "regression"]


class Prediction(NamedTuple):
    """Of rows among C classes: score and belief (n, C); uncertainty (n,) as a whole; of_path: that of each path, and
    conflict (n,) of two; without evidence (of a cross-entropy or a regression) belief is None, and uncertainty the
    entropy of the classes' softmax, as a share of log C."""

    score: Tensor
    belief: Tensor | None
    uncertainty: Tensor
    of_path: list[Tensor]
    conflict: Tensor | None


def predicted(psi: Sequence[Tensor], matrix: Tensor, learned: str, kind: str, fusion: str, scale: float) -> Prediction:
    """What attributes psi (n, K) of each path say of classes with attributes matrix (C, K), by what they learned from:
    `evidential` as the opinions of `nearfar.losses.evidential`; cross-entropy by the softmax of the mean of the
    logits; regression by the cosine with the mean of psi."""
    logits = [class_logits(one, matrix, scale) for one in psi]
    if learned == "evidential":
        found = [evidential.evidence(one, kind) for one in logits]
        whole = evidential.opinion(
            found[0] if len(found) == 1 else evidential.fused_evidence(found[0], found[1], fusion)
        )
        against = evidential.conflict(found[0], found[1]) if len(found) == 2 else None
        return Prediction(whole.probability, whole.belief, whole.uncertainty,
                    [evidential.opinion(one).uncertainty for one in found], against)  # fmt: skip
    mean = torch.stack(logits).mean(0)
    share = mean.softmax(1)
    unsure = torch.special.entr(share).sum(1) / max(np.log(share.shape[1]), 1e-12)
    cosine = class_logits(normalise(torch.stack(list(psi)).mean(0)), matrix)
    return Prediction(share if learned == "cross-entropy" else cosine, None, unsure, [], None)


@dataclass
class DescribedOptions:
    """Which classes are told apart.

    Args:
        candidates: all classes that the model knows by their attributes (all), those of training rows (seen), the
            others (unseen), names, divided by commas ("zebra, panda"), or a file of classes with their attributes
            (.csv, .tsv or .json, as --class-attributes), new ones too.
        top: how many are named for each row, the best first.
        gamma: added to the scores of classes that were not trained on. auto: what validation rows chose when the model
            was trained; 0 where none did.
    """

    candidates: str = "all"
    top: PositiveInt = 1
    gamma: float | Literal["auto"] = "auto"


class DescribedClasses(Inference):
    """Tells classes by their attributes, and how sure it is. found, seen: as in `Described`; layer: whose map the
    regions are (None: the last); settings: `learned`, `kind`, `fusion` and `scale` of `predicted`; gamma: what
    validation rows chose."""

    options: ClassVar[type] = DescribedOptions
    describes: ClassVar[bool] = True
    matrix: Tensor

    def __init__(
        self, grounding: Grounding, names: Sequence[str], classes: Sequence[str], matrix: Tensor, seen: Sequence[bool],
        settings: Mapping[str, Any], layer: int | None = None, role: str = "image",
        gamma: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.grounding, self.names, self.classes, self.seen = grounding, list(names), list(classes), list(seen)
        self.settings, self.layer, self.role, self.gamma = dict(settings), layer, role, gamma
        self.register_buffer("matrix", matrix)

    def config(self) -> dict[str, Any]:
        return {"attributes": self.names, "classes": self.classes, "seen": [bool(one) for one in self.seen],
                "settings": self.settings, "layer": self.layer, "role": self.role, "gamma": self.gamma,
                "grounding": self.grounding.sizes, "words": self.grounding.words.shape[1]}  # fmt: skip

    @classmethod
    def restored(cls, config: Mapping[str, Any]) -> DescribedClasses:
        names, classes = config["attributes"], config["classes"]
        grounding = Grounding(torch.zeros(len(names), config["words"]), **config["grounding"])
        return cls(grounding, names, classes, torch.zeros(len(classes), len(names)), config["seen"],
                   config["settings"], config["layer"], config["role"], config.get("gamma", 0.0))  # fmt: skip

    def keep(self, chosen: Mapping[str, float]) -> None:
        self.gamma = float(chosen.get("gamma", self.gamma))

    def answer(self, rows: np.ndarray, embed: Any, matrix: Tensor) -> Prediction:
        """What the model says of rows among classes with these attributes (C, K), in the model's order."""
        parts = []
        for maps in embed.maps(self.role, rows, self.layer):
            regions = torch.from_numpy(np.array(maps)).to(self.matrix.device).flatten(2).transpose(1, 2)
            parts.append(predicted(self.grounding(regions).psi, matrix.to(self.matrix.device), **self.settings))
        columns = list(zip(*parts, strict=True))
        ways = [torch.cat(one) for one in zip(*columns[3], strict=True)]
        score, belief, unsure, against = (None if columns[k][0] is None else torch.cat(columns[k])
                                          for k in (0, 1, 2, 4))  # fmt: skip
        assert score is not None
        assert unsure is not None
        return Prediction(score, belief, unsure, ways, against)

    def ordered(self, names: Sequence[str], attributes: Any) -> Tensor:
        """Attributes (C, K) that stand under these names, in the model's order. Raises InputError for others."""
        if sorted(names) != sorted(self.names):
            strange = next((name for name in names if name not in self.names), None)
            missing = next((name for name in self.names if name not in names), None)
            wrong = (f"This model knows no attribute '{strange}'.{did_you_mean(strange, self.names)}" if strange else
                     f"The file of class attributes has no attribute '{missing}'.")  # fmt: skip
            raise InputError(wrong, f"It was trained with {len(self.names)}: {', '.join(self.names[:12])}"
                             f"{', ...' if len(self.names) > 12 else ''}.")  # fmt: skip
        order = [list(names).index(name) for name in self.names]
        return torch.from_numpy(np.asarray(attributes, np.float32)[:, order])

    def of_described(
        self, data: Data, rows: np.ndarray, embed: Any, names: Sequence[str], attributes: np.ndarray
    ) -> Tensor:
        if not len(rows):
            return torch.zeros(0, len(names))
        return self.answer(rows, embed, self.ordered(self._names_in(data), attributes)).score

    def _names_in(self, data: Data) -> list[str]:
        from nearfar.sources.class_attributes import class_attributes

        return class_attributes(data).names

    def candidates(self, said: str) -> tuple[list[str], Tensor, np.ndarray]:
        """Names (C), attributes (C, K) and seen (C,) of the classes that `DescribedOptions.candidates` means."""
        seen = np.asarray(self.seen, bool)
        if Path(said).suffix.lower() in (".csv", ".tsv", ".json"):
            from nearfar.sources.class_attributes import matched, read_class_attributes

            names, known = read_class_attributes(said)
            found = matched(list(known), names, known)
            trained = {name for name, one in zip(self.classes, seen, strict=True) if one}
            new = np.array([name in trained for name in found.classes])
            return found.classes, self.ordered(found.names, found.matrix), new
        chosen = {"all": np.arange(len(seen)), "seen": np.flatnonzero(seen), "unseen": np.flatnonzero(~seen)}.get(said)
        if chosen is None:
            given = [one.strip() for one in said.split(",") if one.strip()]
            for name in given:
                if name not in self.classes:
                    raise InputError(f"This model knows no class '{name}'.{did_you_mean(name, self.classes)}",
                                     "Give a file of classes with attributes: --candidates FILE.csv.")  # fmt: skip
            chosen = np.array([self.classes.index(name) for name in dict.fromkeys(given)], int)
        if not len(chosen):
            raise InputError(f"--candidates '{said}' names no class.", "Write all, seen, names, or a file of classes.")
        return [self.classes[k] for k in chosen], self.matrix[torch.from_numpy(chosen)], seen[chosen]

    def predict(self, request: Request, options: DescribedOptions) -> dict[str, Any]:
        """prediction, score, seen (whether it was trained on) and belief, with --top K also prediction_2, ...; of the
        row its uncertainty, that of each path, and their conflict."""
        names, matrix, seen = self.candidates(options.candidates)
        answer = self.answer(request.rows, request.embed, matrix)
        score = answer.score.float().cpu().numpy()
        gamma = self.gamma if options.gamma == "auto" else float(options.gamma)
        order = np.argsort(-(score + gamma * ~seen), axis=1, kind="stable")[:, : options.top]
        found: dict[str, Any] = {}
        for k in range(order.shape[1]):
            ending, best = "" if k == 0 else f"_{k + 1}", order[:, k, None]
            found[f"prediction{ending}"] = [names[i] for i in order[:, k]]
            found[f"score{ending}"] = np.take_along_axis(score, best, 1)[:, 0]
            if answer.belief is not None:
                belief = answer.belief.float().cpu().numpy()
                found[f"belief{ending}"] = np.take_along_axis(belief, best, 1)[:, 0]
            found[f"seen{ending}"] = [bool(seen[i]) for i in order[:, k]]
        found["uncertainty"] = answer.uncertainty.float().cpu().numpy()
        if answer.conflict is not None:
            for name, one in zip(("visual", "attribute"), answer.of_path, strict=True):
                found[f"uncertainty_{name}"] = one.float().cpu().numpy()
            found["conflict"] = answer.conflict.float().cpu().numpy()
        return found

    def diagnostics(self, request: Request) -> Sequence[Diagnostic]:
        """How sure the model is of rows of classes that it was trained on, and of others."""
        from nearfar.evaluation.certainty import certainty_diagnostics

        data = request.data
        if data.targets is None or not len(request.rows):
            return ()
        number = {name: k for k, name in enumerate(self.classes)}
        of = np.array([number.get(name, -1) for name in data.target_names] + [-1])[np.asarray(data.targets)]
        rows = request.rows[of[request.rows] >= 0]
        if not len(rows):
            return ()
        with torch.inference_mode():
            answer = self.answer(rows, request.embed, self.matrix)
        return certainty_diagnostics(answer.score.double().cpu().numpy(), answer.uncertainty.double().cpu().numpy(),
                                     of[rows], np.asarray(self.seen), self.settings["learned"] != "regression",
                                     self.settings["learned"] == "evidential")  # fmt: skip


__all__ = ["DescribedClasses", "DescribedOptions", "Learned", "Prediction", "predicted"]
