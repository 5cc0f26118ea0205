"""What the gates of object-guided attention say of a model that has them (CoT, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from nearfar.evaluation.diagnostics import Diagnostic


def guidance_diagnostics(batches: Iterable[tuple[str, Tensor, Tensor, Tensor]]) -> list[Diagnostic]:
    """How far the gates of each layer differ from image to image, and how far its channels follow the object.

    batches: of each batch the layer's name, gates of channels (n, C) and of places (n, p), and gates of channels with
    another row's object (n, C), all in (0, 1). Layers with fewer than two rows tell nothing."""
    told: dict[str, list[tuple[int, float, float, float]]] = {}
    for name, channels, places, swapped in batches:
        if len(channels) < 2:
            continue
        spread, places_spread = float(channels.std(0).mean()), float(places.std(0).mean())
        follows = float((channels - swapped).abs().mean())
        told.setdefault(name, []).append((len(channels), spread, places_spread, follows))
    found = []
    for name, parts in told.items():
        total = sum(n for n, *_ in parts)
        spread, places, follows = (sum(p[0] * p[k] for p in parts) / total for k in (1, 2, 3))
        found.append(Diagnostic(
            f"gates of {name}", spread, "good" if spread > 0.01 else "watch",
            f"From image to image the gates of channels differ by {spread:.3f}, those of places by {places:.3f}"
            + ("." if spread > 0.01 else ": attention does nothing here; train longer, or use --attention pooled.")
        ))  # fmt: skip
        found.append(Diagnostic(
            f"{name} follows the object", follows, "good" if follows > 0.005 else "watch",
            f"With the vector of another image's object the gates of channels change by {follows:.3f}"
            + ("." if follows > 0.005 else ": the object does not direct the attention.")
        ))  # fmt: skip
    return found
