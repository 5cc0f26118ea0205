"""One queue a group: each keeps its own latest keys, in order, and anchors see those of their group alone."""

import pytest
import torch

from nearfar.errors import InputError
from nearfar.losses.rows import info_nce_rows
from nearfar.negatives import GroupQueue, Items
from nearfar.similarity import one_way


def items(groups, start=0):
    rows = torch.arange(start, start + len(groups))
    return Items(rows, rows[:, None], torch.tensor(groups))


def filled(size, groups, batches):
    queue = GroupQueue(size, groups=groups, in_batch=False)
    queue.setup(2, 1, 4, 100, 10)
    held, number = {g: [] for g in range(groups)}, 0
    for batch in batches:
        keys = torch.arange(number, number + len(batch)).float()[:, None].repeat(1, 2)
        queue.update(keys, items(batch, number))
        for g in batch:
            held[g].append(number)
            number += 1
    return queue, held


def test_each_group_keeps_its_latest_keys():
    queue, held = filled(3, 2, [[0, 0, 1], [0, 1, 0], [0], [1, 1, 1, 1, 1]])
    for g, numbers in held.items():
        own = queue.keys[g * 3 : g * 3 + 3, 0]
        assert sorted(own.tolist()) == sorted(numbers[-3:])
        at = int(queue.pointer[g])
        assert torch.roll(own, -at).tolist() == numbers[-3:], "the next one overwrites the oldest"
        assert (queue.negative_groups[g * 3 : g * 3 + 3] == g).all()
        assert queue.item_identities[g * 3 : g * 3 + 3, 0].tolist() == [int(x) for x in own]


def test_an_anchor_sees_the_keys_of_its_own_group():
    queue, _ = filled(3, 3, [[0, 0, 1], [1, 0, 0]])
    keys = torch.nn.functional.normalize(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    queue.keys = keys
    query, key, groups = torch.randn(3, 2), torch.randn(3, 2), [1, 2, 0]
    anchors = items(groups, 50)
    anchors.item_identities[2, 0] = queue.item_identities[1, 0]  # the same item as a key of its group
    rows = one_way(query, key, in_batch=False, temperature=0.5,
                   extra_candidates=lambda a: queue.extra_candidates(a, anchors)).parts[0]  # fmt: skip
    q, k = (torch.nn.functional.normalize(x, dim=1) for x in (query, key))
    for i, g in enumerate(groups):
        seen = [j for j in range(9) if j // 3 == g and bool(queue.filled[j]) and not (i == 2 and j == 1)]
        positive = q[i] @ k[i] / 0.5
        below = torch.stack([positive, *(q[i] @ keys[j] / 0.5 for j in seen)])
        torch.testing.assert_close(info_nce_rows(rows)[i], below.logsumexp(0) - positive, rtol=1e-5, atol=1e-6)
    assert int(queue.filled.sum()) == 5


def test_one_group_is_a_plain_queue_and_a_wrong_group_is_refused():
    queue, held = filled(4, 1, [[0] * 3, [0] * 3])
    assert sorted(queue.keys[:, 0].tolist()) == held[0][-4:]
    with pytest.raises(InputError, match=r"groups \[2\], and there are 1 queues"):
        queue.update(torch.zeros(1, 2), items([2]))
