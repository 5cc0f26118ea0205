"""What a finished model answers beside vectors: predictions, scores, generated texts or images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nearfar.errors import InputError
from nearfar.options import NoOptions

if TYPE_CHECKING:
    from nearfar.evaluation import Diagnostic
    from nearfar.sources.data import Data


@dataclass(frozen=True)
class Request:
    """Rows of data that a model is asked about.

    data: `nearfar.sources.Data`; rows: (n,) of its sample ids; embed: the model's towers, as a task gets them
    (`embed(role, rows)`, `embed.maps(role, rows, layer)`).
    """

    data: Data
    rows: np.ndarray
    embed: Any

    def vectors(self, role: str | None = None) -> Tensor:
        """float32 (n, d) of the rows; role: default the first that the model embeds and the data hold."""
        return torch.from_numpy(np.array(self.embed(role or self.role, self.rows)))

    @property
    def role(self) -> str:
        found = next((r for r in self.data.content_roles if self.embed.has(r)), None)
        if found is None:
            raise InputError(
                f"This model embeds {', '.join(self.embed.towers)}; {self.data.name} has {', '.join(self.data.roles)}.",
                "Name the column: --text COLUMN or --image COLUMN.",
            )
        return found


class Inference(nn.Module):
    """A module that is saved in the model's folder: its tensors, and `config()`, from which the method's
    `restore_inference` builds it again. It writes one or more of predict, score, generate and diagnostics.

    options: a dataclass of settings, described under its "Args:", which become flags of `nearfar predict` and
    `nearfar generate`. whole: whether all rows must be asked about at once (their answers depend on each other), not in
    pieces. makes: what `generate` gives, "text" or "image" (PIL images or uint8 arrays (h, w, 3)).
    """

    options: ClassVar[type] = NoOptions
    whole: ClassVar[bool] = False
    makes: ClassVar[str] = "text"

    def config(self) -> dict[str, Any]:
        """Values that JSON takes; with the tensors all that is needed to build it again."""
        return {}

    def predict(self, request: Request, options: Any) -> Mapping[str, Any]:
        """Column -> one value for each row: a prediction, and how sure it is."""
        raise NotImplementedError

    def score(self, request: Request, options: Any) -> Any:
        """A number for each row, whose sides make a pair: (n,)."""
        raise NotImplementedError

    def generate(self, prompts: Sequence[str], options: Any, *, seed: int = 0) -> Sequence[Any]:
        """What follows the prompts (or, without any, comes from nothing): texts or images."""
        raise NotImplementedError

    def diagnostics(self, request: Request) -> Sequence[Diagnostic]:
        """What `nearfar diagnose` and the report show of this model beside the numbers of every embedding."""
        return ()

    def of_bags(self, vectors: Tensor, bags: Tensor) -> tuple[Tensor, Tensor] | None:
        """How positive each row is, and each bag: (n,) and (b,), the higher the surer; None, the default: it does not
        tell bags. vectors: (n, d) as the encoder gives them, not brought to length 1; bags: the number of each row's
        bag, 0 .. b - 1, (n,)."""
        return None

    scores_pairs: ClassVar[bool] = False
    """Whether `of_pairs` scores pairs, in place of the similarity of its vectors."""

    def of_pairs(self, data: Data, rows: np.ndarray, embed: Any) -> Tensor:
        """How far the two sides of each row belong together, (n,). embed: as a task gets the towers."""
        raise NotImplementedError

    classifies: ClassVar[bool] = False
    """Whether `of_classes` tells classes, in place of a probe on its vectors."""

    def of_classes(self, data: Data, rows: np.ndarray, embed: Any) -> Sequence[str]:
        """The name of the class of each row."""
        raise NotImplementedError

    assigns: ClassVar[bool] = False
    """Whether `of_clusters` tells clusters, in place of k-means on its vectors."""

    def of_clusters(self, data: Data, rows: np.ndarray, embed: Any) -> np.ndarray:
        """The number of the cluster of each row, (n,)."""
        raise NotImplementedError

    composes: ClassVar[bool] = False
    """Whether `of_compositions` scores compositions of attributes and an object, in place of hard prompts."""

    def of_compositions(
        self, data: Data, rows: np.ndarray, embed: Any, candidates: Sequence[tuple[tuple[str, ...], str]]
    ) -> Tensor:
        """How far each row shows each composition, (n, K), finite; the higher the surer. candidates: the names of the
        attributes (one or several) and of the object, clean, trained on together or not."""
        raise NotImplementedError

    def of_words(self, names: Sequence[str]) -> np.ndarray | None:
        """Vectors (n, d) of the names of attributes or objects, by which the open world judges pairs; None, the
        default: those of the tower of texts."""
        return None

    describes: ClassVar[bool] = False
    """Whether `of_described` scores classes that are described by attributes."""

    def of_described(
        self, data: Data, rows: np.ndarray, embed: Any, names: Sequence[str], attributes: np.ndarray
    ) -> Tensor:
        """How far each row is of each of some classes, told among these alone, (n, C). names: of the classes;
        attributes: (C, K), in the order of the data's."""
        raise NotImplementedError

    def keep(self, chosen: Mapping[str, float]) -> None:
        """Takes over, before it is saved, what validation rows chose (`Scores.chosen`)."""

    @property
    def verbs(self) -> list[str]:
        """Which of predict, score and generate it writes."""
        own = type(self)
        pairs = (
            ("predict", own.predict is not Inference.predict),
            ("score", own.score is not Inference.score),
            ("generate", own.generate is not Inference.generate),
        )
        return [verb for verb, written in pairs if written]


__all__ = ["Inference", "NoOptions", "Request"]
