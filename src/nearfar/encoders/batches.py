"""All items through an encoder, in batches, in order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nearfar import modalities
from nearfar.encoders.base import Encoder, evaluating
from nearfar.errors import InputError


@torch.inference_mode()
def vectors(
    encoder: Encoder,
    items: Sequence[Any] | np.ndarray,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    head: nn.Module | None = None,
) -> np.ndarray:
    """float32 (n, dim) of the items, in their order; in evaluation mode, which is undone afterwards.

    Items that have lengths go sorted by them, so that batches carry little padding. progress: called with (done, all).
    """
    with evaluating(*([encoder] if head is None else [encoder, head])):
        rows, batches = _batches(encoder, items, batch_size)
        out: np.ndarray | None = None
        done = 0
        for where, batch in zip(rows, batches):
            made = encoder(batch)
            made = (made if head is None else head(made)).float().cpu().numpy()
            out = np.empty((len(items), made.shape[1]), np.float32) if out is None else out
            out[where] = made
            done += len(where)
            if progress is not None:
                progress(done, len(items))
    return np.empty((0, _width(encoder, head)), np.float32) if out is None else out


def _batches(encoder: Encoder, items: Sequence[Any] | np.ndarray, batch_size: int):
    n, kind = len(items), modalities.get(encoder.modality)
    kind.check_items(items)
    lengths = kind.lengths(items)
    if lengths is not None:
        order = np.argsort([-length for length in lengths], kind="stable")  # longest first: too little memory shows
        rows = [order[i : i + batch_size] for i in range(0, n, batch_size)]
        return rows, (encoder.prepare([items[i] for i in where]) for where in rows)
    rows = [np.arange(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]
    return rows, (encoder.prepare(items[where[0] : where[-1] + 1]) for where in rows)


def check_texts(items: Sequence[Any] | np.ndarray) -> None:
    """Raises InputError that names the first item which is not a text, or holds half of a character."""
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise InputError(f"Item {i} is not a text but {str(item)[:60]!r} ({type(item).__name__}).")
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"Item {i} holds half of a character (a lone surrogate): {item[:60]!r}.",
                "Take it out: text.encode('utf-8', 'replace').decode().",
            ) from error


def _width(encoder: Encoder, head: nn.Module | None) -> int:
    return encoder.dim if head is None else int(head(torch.zeros(1, encoder.dim, device=encoder.device)).shape[1])
