"""Further negatives as parts: each adds blocks of candidates to a similarity, whatever the loss."""

from nearfar.negatives.base import Negatives, parts
from nearfar.negatives.queue import Queue

__all__ = ["Negatives", "Queue", "parts"]
