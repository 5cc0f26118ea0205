"""Further negatives as parts: each adds blocks of candidates to a similarity or restricts it, whatever the loss."""

from nearfar.negatives.base import Items, Negatives, Survey, parts
from nearfar.negatives.cluster import Cluster
from nearfar.negatives.fnc import FNC
from nearfar.negatives.mined import Mined
from nearfar.negatives.mixing import Mixing
from nearfar.negatives.queue import CrossBatch, GroupQueue, Queue

__all__ = [
    "FNC",
    "Cluster",
    "CrossBatch",
    "GroupQueue",
    "Items",
    "Mined",
    "Mixing",
    "Negatives",
    "Queue",
    "Survey",
    "parts",
]
