"""Learning from the vectors of a frozen teacher, beside the loss of any method that contrasts items.

    relations   L = mean_i KL(p_i | q_i),  p_i = softmax_j(t_i t_j / tau),  q_i = softmax_j(z_i z_j / tau)
    cosine      L = mean_i 1 - cos(z_i, t_i)

i runs over the anchors of a batch and j over its keys, of all processes. Sources: SEED (Fang et al., ICLR 2021), whose
keys are a queue and here those of the batch; RKD (Park et al., CVPR 2019) for learning relations instead of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import InputError
from nearfar.methods.batch import Batch
from nearfar.similarity import normalise
from nearfar.similarity.exchange import exchange

if TYPE_CHECKING:
    from nearfar.methods.base import Loss, Method

Form = Literal["relations", "cosine"]
Pair = tuple[Tensor, Tensor]


def relation_loss(
    student: tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]],
    teacher: tuple[Float[Tensor, "n e"], Float[Tensor, "m e"]],
    temperature: float = 0.1,
    *,
    negatives: str = "local",
) -> Float[Tensor, ""]:
    """How far the student's similarities of anchors and keys are from the teacher's; in [0, inf). The widths may
    differ. negatives: "global" takes the keys of all processes, and the mean over their anchors."""
    net = exchange(negatives)
    mine, theirs = ((normalise(a.float()) @ net.gather(normalise(b.float()))[0].T / temperature).log_softmax(1)
                    for a, b in (student, teacher))  # fmt: skip
    return net.mean(F.kl_div(mine, theirs, reduction="none", log_target=True).sum(1))


def cosine_loss(student: Pair, teacher: Pair, *, negatives: str = "local") -> Float[Tensor, ""]:
    """How far the student's vectors, anchors and keys alike, point away from the teacher's; in [0, 2]. negatives:
    "global" takes the mean over those of all processes."""
    mine, theirs = torch.cat(student).float(), torch.cat(teacher).float()
    return exchange(negatives).mean(1 - F.cosine_similarity(mine, theirs, dim=1))


@dataclass(eq=False)
class Distiller:
    """The teacher's vectors of the training rows, and what is learned of them.

    vectors: by role, float (rows, d); places: of each sample id its row there, -1 for none.
    """

    vectors: dict[str, Tensor]
    places: Tensor
    form: Form = "relations"
    weight: float = 1.0
    temperature: float = 0.1

    def of(self, role: str, rows: Tensor) -> Tensor:
        """The teacher's vectors of some sample ids, on their device."""
        return self.vectors[role][self.places[rows.cpu()]].to(rows.device)

    def added(self, loss: Loss, method: Method, embedded: dict[str, Any], batch: Batch) -> Loss:
        """The loss with the teacher's term added."""
        contrast: Any = method
        mine: Pair = contrast.sides(embedded)
        (first, last), roles = contrast.side_rows(batch), method.reads
        theirs = self.of(roles[0], first), self.of(roles[-1], last)
        if self.form == "cosine":
            term = cosine_loss(mine, theirs, negatives="global")
        else:
            term = relation_loss(mine, theirs, self.temperature, negatives="global")
        loss.terms["distillation"] = term.detach()
        loss.total = loss.total + self.weight * term
        return loss


def check_taught(method: Method) -> int:
    """How many numbers the vectors have that a method contrasts. Raises InputError for one that cannot be taught."""
    width = method.taught_width()
    if width is None:
        raise InputError(f"--distil-from: '{method.slug}' does not contrast two sides of every item, beside which a "
                         "teacher's vectors could stand.", "Take a method such as pairs, simclr or dcl.")  # fmt: skip
    return width


def check_widths(form: Form, width: int, teacher: int) -> None:
    """Raises InputError where vectors of two widths are to be compared one by one."""
    if form == "cosine" and width != teacher:
        raise InputError(f"--distil-loss cosine: the teacher's vectors have {teacher} numbers, the student's {width}.",
                         f"Use --dim {teacher} (with a head), or --distil-loss relations.")  # fmt: skip
