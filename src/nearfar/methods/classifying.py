"""What a few-shot method answers: rows without a label take a class of the rows that have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nearfar.checks import PositiveFloat
from nearfar.errors import InputError
from nearfar.methods.inference import Inference, Request


@dataclass
class FewShotOptions:
    """How rows without a label are classified by those that have one.

    Args:
        classifier: logistic (a regression on the class means) or nearest (the nearest class mean); auto: the method's.
        transport: class means are carried onto the rows without a label, all looked at together; auto: as the method.
        eps: weight of the transport plan's entropy.
    """

    classifier: Literal["auto", "logistic", "nearest"] = "auto"
    transport: bool | Literal["auto"] = "auto"
    eps: PositiveFloat = 0.05


class FewShotInference(Inference):
    """Rows without a label take a class of those that have one; all rows are looked at together.

    classifier, transport: what `auto` means.
    """

    options = FewShotOptions
    whole = True

    def __init__(self, classifier: str = "logistic", transport: bool = True):
        super().__init__()
        self.classifier, self.transport = classifier, transport

    def config(self) -> dict[str, Any]:
        return {"classifier": self.classifier, "transport": self.transport}

    def predict(self, request: Request, options: FewShotOptions) -> dict[str, Any]:
        """prediction: name of the class (of a labelled row: its own); labelled: whether the row came with it."""
        from nearfar.evaluation.fewshot import classified

        if request.data.targets is None:
            raise InputError("Few-shot prediction needs some rows with a label.", "Name the column: --label COLUMN.")
        labels = request.data.targets[request.rows].copy()
        labelled, z = labels >= 0, request.embed.raw(request.role, request.rows)
        labels[~labelled] = classified(
            z[labelled],
            labels[labelled],
            z[~labelled],
            classifier=self.classifier if options.classifier == "auto" else options.classifier,
            transport=self.transport if options.transport == "auto" else options.transport,
            eps=options.eps,
        )
        return {"prediction": [request.data.target_names[k] for k in labels], "labelled": labelled}
