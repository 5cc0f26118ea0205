"""Checkpoints of earlier versions, which name some of a memory's state otherwise, are still loaded."""

import torch

from nearfar.negatives import Queue
from tests.negatives.scene import items

EARLIER = {"item_identities": "marks", "negative_groups": "pools"}


def test_a_queue_of_an_earlier_version_goes_on():
    old, new = Queue(4), Queue(4)
    for queue in (old, new):
        queue.setup(2, 1, 2, 100)
    old.update(torch.eye(2), items([[7], [8]], negative_groups=[1, 2]))
    state = {EARLIER.get(name, name): x for name, x in old.state_dict().items()}
    assert {"marks", "pools"} <= set(state)
    new.load_state_dict(state)
    for name, x in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], x), name
