"""Vectors whose first numbers are vectors of their own: the loss at several widths (Matryoshka, Kusupati et al.,
NeurIPS 2022).

    L = sum_m c_m L(z[:, :m]),  m of the widths; every prefix is brought to length 1 by itself
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nearfar.errors import InputError
from nearfar.heads.prefix import first_numbers
from nearfar.methods.batch import Batch

if TYPE_CHECKING:
    from nearfar.methods.base import Loss, Method


@dataclass(frozen=True)
class Nesting:
    """Widths in falling order, the whole first, and the weight of each in the loss."""

    widths: tuple[int, ...]
    weights: tuple[float, ...]

    def within(self, whole: int) -> Nesting:
        """With the whole width in front, at weight 1 where it is not among them. Raises InputError for a larger one."""
        if self.widths[0] > whole:
            raise InputError(f"--dims {self.widths[0]}: the vectors have {whole} numbers.", f"Use {whole} or less.")
        if self.widths[0] == whole:
            return self
        return Nesting((whole, *self.widths), (1.0, *self.weights))


def nesting(widths: str, weights: str | None = None) -> Nesting:
    """From "256,128,64" and "1,1,0.5"; all weights 1 where there are none.

    Raises InputError for what are no whole numbers above 0, a width that stands twice, and weights of another number.
    """
    try:
        found = [int(part) for part in widths.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1 or len(set(found)) < len(found):
        raise InputError(f"--dims takes different whole numbers of at least 1, divided by commas. Got '{widths}'.",
                         "Write for example --dims 256,128,64.")  # fmt: skip
    try:
        given = [1.0] * len(found) if weights is None else [float(part) for part in weights.split(",")]
    except ValueError:
        given = []
    if len(given) != len(found) or not all(0 < weight < float("inf") for weight in given):
        raise InputError(f"--dims-weights takes a number above 0 for each of --dims {widths}. Got '{weights}'.")
    ordered = sorted(zip(found, given, strict=True), reverse=True)
    return Nesting(tuple(m for m, _ in ordered), tuple(c for _, c in ordered))


def nested_loss(method: Method, embedded: dict[str, Any], batch: Batch, nesting: Nesting) -> Loss:
    """The method's loss at every width, weighted and added up; of the learning curve's terms those of the whole, and
    the loss of each prefix."""
    prefixes = [method.loss(cut(embedded, m), batch) for m in nesting.widths[1:]]
    made = method.loss(embedded, batch)  # last, so that what the method monitors is of the whole
    made.terms["loss_whole"] = made.total.detach()
    made.total = made.total * nesting.weights[0]
    for m, weight, one in zip(nesting.widths[1:], nesting.weights[1:], prefixes, strict=True):
        made.terms[f"loss_{m}"] = one.total.detach()
        made.total = made.total + weight * one.total
    return made


def cut(value: Any, width: int) -> Any:
    """The first numbers of each vector of embeddings (n, D), or of all in a list or a dict."""
    if isinstance(value, dict):
        return {name: cut(one, width) for name, one in value.items()}
    if isinstance(value, list):
        return [cut(one, width) for one in value]
    return first_numbers(value, width) if isinstance(value, Tensor) else value


def nest(method: Method, asked: Nesting) -> Nesting:
    """Makes a method train prefixes too, and gives the widths with the whole one. Raises InputError for a method whose
    loss is not one of the vectors that the finished model gives, and of nothing else."""
    whole = method.nested_width()
    if whole is None:
        raise InputError(
            f"--dims: '{method.slug}' does not contrast the vectors that its model gives, and these alone.",
            "Take a method of pairs (pairs, align), or one of views without a projection head (--projector 0), without "
            "--negatives.",
        )
    method.nesting = asked.within(whole)
    return method.nesting
