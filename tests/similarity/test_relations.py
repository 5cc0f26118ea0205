"""What relations say of themselves is true of their tiles: the plan believes them."""

import pytest
import torch

from nearfar.similarity import (
    LogSumExp,
    Relation,
    Similarity,
    at_least,
    dense,
    diagonal,
    equal,
    everyone,
    function,
    listed,
    low_rank,
    nearer,
    nobody,
    overlap,
    per_column,
    per_row,
    same,
    sparse,
)
from nearfar.similarity.relations import PerBlock, Tile
from tests.similarity.naive import seeded

N, M = 5, 7
ROWS, COLUMNS = torch.tensor([0, 1, 2, -1, 1]), torch.tensor([1, 1, 0, 2, -1, 5, 0])
PLACES = torch.tensor([[3, 1], [0, -1], [6, 6], [-1, -1], [2, 4]])
S = seeded(N, M)
CLASSES = same(ROWS, COLUMNS)
RELATIONS = {
    "everyone": everyone, "nobody": nobody, "same": CLASSES, "listed": listed(PLACES), "diagonal": diagonal(N, 1),
    "sparse": sparse(torch.tensor([0, 4]), torch.tensor([2, 6]), N), "equal": equal(ROWS, COLUMNS),
    "overlap": overlap(seeded(N, 3) > 0, seeded(M, 3, seed=1) > 0), "dense": dense(S > 0), "weights": dense(S),
    "rows": per_row(seeded(N)), "columns": per_column(seeded(M)), "chosen columns": per_column(seeded(M) > 0),
    "low rank": low_rank(seeded(N, 2), seeded(M, 2)), "limit": at_least(seeded(N)),
    "nearer": nearer(seeded(N, 2), seeded(M, 2), 0.3),
    "function": function(lambda t: t.s > 0), "and": CLASSES & ~listed(PLACES), "or": CLASSES | at_least(seeded(N)),
    "weighed": CLASSES & per_row(seeded(N)),
}  # fmt: skip


def tile(relation: Relation, s: torch.Tensor | None = S, block: int = 0) -> torch.Tensor:
    return relation.tile(Tile(slice(0, N), block, slice(0, M), False, torch.device("cpu"), s)).expand(N, M)


@pytest.mark.parametrize("name", RELATIONS)
def test_they_are_what_they_say(name):
    relation = RELATIONS[name]
    if relation.boolean:
        assert tile(relation).dtype == torch.bool
    if not relation.reads_values:
        assert torch.equal(tile(relation, None), tile(relation, -S))
    if relation.sparse:
        rows, columns = relation.pairs_in(Tile(slice(0, N), 0, slice(0, M), False, torch.device("cpu")))
        found = torch.zeros(N, M, dtype=torch.bool)
        found[rows, columns] = True
        assert torch.equal(found, tile(relation))


@pytest.mark.parametrize("name", RELATIONS)
def test_one_block_sees_what_the_tile_of_that_block_holds(name):
    relation = RELATIONS[name]
    for block in (0, 1):
        assert torch.equal(tile(relation.at_block(block)), tile(relation, block=block))
    apart = PerBlock([everyone, relation])
    assert torch.equal(tile(apart.at_block(1)), tile(relation))


@pytest.mark.parametrize(("relation", "symmetric"), [
    (same(ROWS), True), (same(ROWS, ROWS.clone()), True), (same(ROWS, ROWS.flip(0)), False), (diagonal(N), True),
    (diagonal(N, 1), False), (listed(torch.tensor([1, 0, -1, 4, 3])), True), (dense(torch.ones(N, N) > 0), False),
    (listed(torch.tensor([1, 2, 0, 4, 3])), False)])  # fmt: skip
def test_symmetry_is_never_claimed_wrongly(relation, symmetric):
    assert relation.symmetric() is symmetric
    assert (~relation).symmetric() is symmetric


def test_listed_columns_that_are_no_candidate_of_the_block_leave_nothing_out():
    z = seeded(N, 3).requires_grad_()
    found = Similarity(z, z).reduce(LogSumExp(where=~diagonal(N, 1)))
    assert torch.allclose(
        found, Similarity(z, z).dense().masked_fill(torch.eye(N).roll(1, 1).triu(1) > 0, -torch.inf).logsumexp(1)
    )


def test_a_relation_of_ones_own_promises_nothing():
    class Odd(Relation):
        def tile(self, t):
            return (t.row_index()[:, None] + t.column_index()) % 2 == 1

    odd = Odd()
    assert not any([odd.boolean, odd.sparse, odd.alike, odd.symmetric()])
    assert odd.reads_values
    assert not (odd & CLASSES).boolean
    assert tile(odd.at_block(3)).sum() == N * M // 2
