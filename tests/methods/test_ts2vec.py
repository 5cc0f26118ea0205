"""TS2Vec: crops, masks, and a step as its card has it."""

import pytest
import torch

from nearfar.errors import InputError
from nearfar.methods.series.ts2vec import overlapping_crops
from nearfar.methods.stepwise import kept_steps, rows_from
from nearfar.momentum import Average
from nearfar.training import building
from nearfar.training.settings import TrainSettings

SMALL = {"series_width": 6, "series_dim": 8, "series_depth": 2, "batch_size": 8, "steps": 4, "warmup": 0}


def made(data, **options):
    return building.prepare("ts2vec", data, TrainSettings(**SMALL), options)


@pytest.mark.parametrize(("steps", "scales"), [(1, 0), (2, 0), (9, 0), (40, 3), (5, 6)])
def test_crops_overlap_and_lie_within_the_series(steps, scales):
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        a1, a2, b1, b2 = overlapping_crops(steps, scales, generator)
        assert 0 <= a1 <= a2 < b1 <= b2 <= steps
        assert b1 - a2 >= min(2 ** (scales + 1), steps)


def test_masks():
    generator = torch.Generator().manual_seed(0)
    assert 0.45 < kept_steps("binomial", 50, 60, generator).float().mean() < 0.55
    assert kept_steps("none", 3, 5, generator).all()
    last = kept_steps("last", 3, 5, generator)
    assert last[:, :-1].all()
    assert not last[:, -1].any()
    hidden = ~kept_steps("continuous", 40, 60, generator)
    assert ((hidden.sum(1) >= 6) & (hidden.sum(1) <= 30)).all()


def test_both_crops_hold_the_shared_steps_of_the_same_series(series_few):
    found = made(series_few)
    batch = found.loader.at(1)
    first, second, *seen, shared = found.method.make_views(batch)["series"]
    many = int(shared[0])
    assert torch.equal(first[:, -many:].nan_to_num(9), second[:, :many].nan_to_num(9))
    assert [one.shape for one in seen] == [first.shape[:2], second.shape[:2]]
    x = batch.inputs["series"]
    starts = torch.tensor([0, 2])
    assert torch.equal(rows_from(x[:2], starts, 3)[1].nan_to_num(9), x[1, 2:5].nan_to_num(9))


def test_the_average_is_the_mean_of_all_weights():
    module = torch.nn.Linear(2, 2)
    average, snapshots = Average(module), [module.weight.detach().clone()]
    for _ in range(5):
        with torch.no_grad():
            module.weight += torch.randn(2, 2)
        average.update(module)
        snapshots.append(module.weight.detach().clone())
    assert torch.allclose(average.module.weight, torch.stack(snapshots).mean(0), atol=1e-6)


def test_a_frozen_encoder_is_refused(series_few):
    with pytest.raises(InputError, match="needs the vectors of single steps"):
        building.prepare("ts2vec", series_few, TrainSettings(**SMALL, freeze=True), {})
