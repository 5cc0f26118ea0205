"""The queue: first in first out, marks, ages, state."""

import pytest
import torch
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.negatives import Queue
from nearfar.similarity import Similarity


def queue(size=6, kinds=1, **options):
    q = Queue(size, **options)
    q.setup(3, kinds, batch_size=2, samples=100)
    return q


def keys(first, count):
    return torch.arange(first, first + count).float()[:, None].expand(count, 3)


def marks(*values):
    return torch.tensor(values)[:, None]


def test_first_in_first_out_and_pointer():
    q = queue()
    for step in range(5):
        q.update(keys(2 * step, 2), marks(step, step))
        assert int(q.pointer) == (2 * step + 2) % 6
    assert q.keys[:, 0].tolist() == [6, 7, 8, 9, 4, 5]
    assert q.marks[:, 0].tolist() == [3, 3, 4, 4, 2, 2]
    assert q.age.tolist() == [1, 1, 0, 0, 2, 2]
    q.update(keys(10, 2), marks(5, 5))
    assert int(q.pointer) == 0
    assert q.keys[:, 0].tolist() == [6, 7, 8, 9, 10, 11]


def test_batches_that_do_not_divide_the_size_or_exceed_it():
    q = queue(5)
    for step in range(4):
        q.update(keys(3 * step, 3), marks(0, 0, 0))
    assert sorted(q.keys[:, 0].tolist()) == [7, 8, 9, 10, 11]
    q.update(keys(100, 9), torch.zeros(9, 1, dtype=torch.long))
    assert sorted(q.keys[:, 0].tolist()) == [104, 105, 106, 107, 108]


def test_unfilled_places_are_invisible_unless_random():
    q = queue()
    assert list(q.blocks(torch.arange(2), marks(0, 1))) == []
    q.update(keys(0, 2), marks(0, 0))
    (block,) = q.blocks(torch.arange(2), marks(5, 6))
    assert block.keys.shape == (2, 3)
    assert not block.gradient
    random = queue(random_start=True)
    assert_close(random.keys.norm(dim=1), torch.ones(6))
    assert random.blocks(torch.arange(2), marks(0, 1))[0].keys.shape == (6, 3)


def test_equal_marks_hide_and_unknown_ones_do_not():
    q = queue(4, kinds=2)
    q.update(keys(1, 4), torch.tensor([[0, -1], [1, 5], [2, 6], [-1, -1]]))
    items, batch = torch.tensor([0, 1, 0]), torch.tensor([[2, 5], [-1, -1]])
    s = Similarity(torch.randn(3, 3), q.blocks(items, batch))
    assert s.mask(s.negative).tolist() == [[True, False, False, True], [True] * 4, [True, False, False, True]]


def test_block_is_a_copy_of_the_keys():
    q = queue(2)
    q.update(keys(1, 2), marks(0, 0))
    (block,) = q.blocks(torch.arange(1), marks(3))
    q.update(keys(8, 2), marks(0, 0))
    assert block.keys[:, 0].tolist() == [1, 2]


def test_state_goes_on_where_it_was():
    a, b = queue(), queue()
    a.update(keys(0, 4), marks(1, 2, 3, 4))
    b.load_state_dict(a.state_dict())
    for q in (a, b):
        q.update(keys(10, 4), marks(5, 6, 7, 8))
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    assert set(a.state_dict()) == {"keys", "marks", "entered", "pointer", "now"}


@pytest.mark.parametrize(("samples", "batch", "size"), [(1000, 32, 224), (100, 32, 128), (10_000_000, 256, 65536)])
def test_automatic_size(samples, batch, size):
    q = Queue()
    q.setup(3, 0, batch, samples)
    assert len(q.keys) == size


def test_wrong_size():
    with pytest.raises(InputError, match="at least 1"):
        Queue(0)
