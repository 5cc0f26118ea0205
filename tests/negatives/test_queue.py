"""The queue: first in first out, marks, ages, state."""

import pytest
import torch
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.negatives import CrossBatch, Queue
from nearfar.similarity import Similarity

from .scene import anchors, items


def queue(size=6, kinds=1, **options):
    q = Queue(size, **options)
    q.setup(3, kinds, batch_size=2, samples=100)
    return q


def keys(first, count):
    return torch.arange(first, first + count).float()[:, None].expand(count, 3)


def item_identities(*values):
    return torch.tensor(values)[:, None]


def blocks(q, values, which=None, **more):
    values = torch.as_tensor(values)
    query = torch.randn(len(values) if which is None else len(which), 3)
    return list(q.extra_candidates(anchors(query, which), items(values, **more)).blocks)


def test_first_in_first_out_and_pointer():
    q = queue()
    for step in range(5):
        q.update(keys(2 * step, 2), items(item_identities(step, step)))
        assert int(q.pointer) == (2 * step + 2) % 6
    assert q.keys[:, 0].tolist() == [6, 7, 8, 9, 4, 5]
    assert q.item_identities[:, 0].tolist() == [3, 3, 4, 4, 2, 2]
    assert q.age.tolist() == [1, 1, 0, 0, 2, 2]
    q.update(keys(10, 2), items(item_identities(5, 5)))
    assert int(q.pointer) == 0
    assert q.keys[:, 0].tolist() == [6, 7, 8, 9, 10, 11]


def test_batches_that_do_not_divide_the_size_or_exceed_it():
    q = queue(5)
    for step in range(4):
        q.update(keys(3 * step, 3), items(item_identities(0, 0, 0)))
    assert sorted(q.keys[:, 0].tolist()) == [7, 8, 9, 10, 11]
    q.update(keys(100, 9), items(torch.zeros(9, 1, dtype=torch.long)))
    assert sorted(q.keys[:, 0].tolist()) == [104, 105, 106, 107, 108]


def test_unfilled_places_are_invisible_unless_random():
    q = queue()
    assert blocks(q, item_identities(0, 1)) == []
    q.update(keys(0, 2), items(item_identities(0, 0)))
    (block,) = blocks(q, item_identities(5, 6))
    assert block.keys.shape == (2, 3)
    assert not block.gradient
    random = queue(random_start=True)
    assert_close(random.keys.norm(dim=1), torch.ones(6))
    assert blocks(random, item_identities(0, 1))[0].keys.shape == (6, 3)


def test_equal_marks_hide_and_unknown_ones_do_not():
    q = queue(4, kinds=2)
    q.update(keys(1, 4), items(torch.tensor([[0, -1], [1, 5], [2, 6], [-1, -1]])))
    s = Similarity(torch.randn(3, 3), blocks(q, [[2, 5], [-1, -1]], which=[0, 1, 0]))
    assert s.mask(s.negative).tolist() == [[True, False, False, True], [True] * 4, [True, False, False, True]]


def test_block_is_a_copy_of_the_keys():
    q = queue(2)
    q.update(keys(1, 2), items(item_identities(0, 0)))
    (block,) = blocks(q, item_identities(3))
    q.update(keys(8, 2), items(item_identities(0, 0)))
    assert block.keys[:, 0].tolist() == [1, 2]


def test_state_goes_on_where_it_was():
    a, b = queue(), queue()
    a.update(keys(0, 4), items(item_identities(1, 2, 3, 4)))
    b.load_state_dict(a.state_dict())
    for q in (a, b):
        q.update(keys(10, 4), items(item_identities(5, 6, 7, 8)))
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    assert set(a.state_dict()) == {"keys", "item_identities", "negative_groups", "entered", "pointer", "now"}


@pytest.mark.parametrize(("samples", "batch", "size"), [(1000, 32, 224), (100, 32, 64), (10_000_000, 256, 65536)])
def test_automatic_size(samples, batch, size):
    q = Queue()
    q.setup(3, 0, batch, samples)
    assert len(q.keys) == size


def test_wrong_size():
    with pytest.raises(InputError, match="at least 1"):
        Queue(0)


def test_an_item_sees_the_keys_of_its_own_pool_alone():
    q = queue(4)
    q.update(keys(1, 4), items(item_identities(0, 1, 2, 3), negative_groups=[5, 6, 5, -1]))
    (block,) = blocks(q, item_identities(9, 8), negative_groups=[5, 6])
    s = Similarity(torch.randn(2, 3), block)
    assert s.mask(s.visible).tolist() == [[True, False, True, False], [False, True, False, False]]
    q.update(keys(1, 4), items(item_identities(0, 1, 2, 3)))
    (block,) = blocks(q, item_identities(9, 8), negative_groups=[5, 6])
    s = Similarity(torch.randn(2, 3), block)
    assert not s.mask(s.visible).any()


def test_cross_batch_memory_is_used_after_its_start_and_fills_before():
    memory = CrossBatch(6, start=0.5)
    memory.setup(3, 1, batch_size=2, samples=100, steps=10)
    memory.update(keys(1, 2), items(item_identities(0, 1)))
    assert blocks(memory, item_identities(5, 6), step=4, steps=10) == []
    assert blocks(memory, item_identities(5, 6), step=5, steps=10)[0].keys[:, 0].tolist() == [1, 2]
    assert CrossBatch.own_keys
    with pytest.raises(InputError, match="a number in \\[0, 1\\]"):
        CrossBatch(start=2)
