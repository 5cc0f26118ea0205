"""Across processes: keys that are gathered from all ranks or go round them, and numbers that all ranks agree on."""

from nearfar.similarity.exchange.collectives import all_sum, any_rank, largest, total
from nearfar.similarity.exchange.gather import NEGATIVES, Exchange, exchange, exchange_plan
from nearfar.similarity.exchange.ring import Ring, RingPass

__all__ = [
    "NEGATIVES",
    "Exchange",
    "Ring",
    "RingPass",
    "all_sum",
    "any_rank",
    "exchange",
    "exchange_plan",
    "largest",
    "total",
]
