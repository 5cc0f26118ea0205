"""AutoTCL: the two phases move their own parameters alone, the view is learned, and the options of the card."""

import pytest
import torch

from nearfar.errors import InputError
from nearfar.training import building, engine
from nearfar.training.settings import TrainSettings

SMALL = {
    "series_width": 6,
    "series_dim": 8,
    "series_depth": 2,
    "batch_size": 8,
    "steps": 4,
    "warmup": 0,
    "val_every": 0,
}


def made(data, **options):
    found = building.prepare("autotcl", data, TrainSettings(**SMALL), {"aug_width": 6, "aug_dim": 4} | options)
    found.method.train()
    return found


def viewed(found, number=0):
    batch = found.loader.at(number)
    batch.views = found.method.make_views(batch)
    return batch


def test_each_phase_moves_its_own_parameters_alone(series_few):
    found = made(series_few)
    before = {name: p.detach().clone() for name, p in found.method.named_parameters()}
    first = found.method.phases()[0]
    kept, first_loss = first.trained, first.loss

    def seen(batch):
        """As the second phase begins, the encoder has not moved and the augmenter has."""
        now = dict(found.method.named_parameters())
        seen.moved = {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])}
        return encoder_loss(batch)

    encoder_loss, found.method.encoder_loss = found.method.encoder_loss, seen
    engine.trainer_for(found, [], 1).fit(found.method, found.loader)
    assert seen.moved == {"augmenter"}
    assert kept
    assert first_loss
    names = {name for name, p in found.method.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[0] for name in names} == {"augmenter", "tower", "average"}


def test_the_view_is_a_part_of_the_series_in_deviations(series_few):
    found = made(series_few, hard=True)
    x, _, _, u, *_ = viewed(found).views["series"]
    encoder = found.method.tower.encoder
    v, m, w = found.method.view(x, u)
    assert torch.equal(v.isnan(), x.isnan())
    assert set(m.detach().round(decimals=6).unique().tolist()) <= {0.0, 1.0}
    assert ((w > 0) & (w < 1)).all()
    a, b = encoder.scaled(v), encoder.scaled(x)
    assert (a.abs() <= b.abs() + 1e-5).all()
    assert (a[(m == 0) & ~x.isnan()].abs() < 1e-5).all()


def test_the_double_sigmoid_never_closes_a_mask_without_noise(series_few):
    found = made(series_few, double_sigmoid=True)
    found.method.eval()
    x, _, _, u, *_ = viewed(found).views["series"]
    with torch.no_grad():
        found.method.augmenter.keep.bias.fill_(-9)
    assert (found.method.view(x, u)[1] > 0.47).all()
    plain = made(series_few)
    plain.method.eval()
    with torch.no_grad():
        plain.method.augmenter.keep.bias.fill_(-9)
    assert (plain.method.view(x, u)[1] < 0.01).all()


def test_a_learned_mask_neither_keeps_everything_nor_nothing(series_few):
    def kept(**options):
        settings = TrainSettings(**SMALL | {"steps": 60, "schedule": "constant", "lr": 1e-3})
        found = building.prepare("autotcl", series_few, settings, {"aug_width": 6, "aug_dim": 4, **options})
        found.method.train()
        engine.trainer_for(found, [], 60).fit(found.method, found.loader)
        found.method.eval()
        x, _, _, u, *_ = viewed(found).views["series"]
        return found.method.view(x, u)[1][~x.isnan()]

    m = kept(meta_lr=0.05)
    assert 0.05 < m.mean() < 0.8
    assert m.var() > 1e-3
    assert kept(meta_lr=0.05, reg_weight=0.1).mean() > 0.9


def test_the_adversarial_augmenter_has_the_negative_of_the_contrast(series_few):
    found = made(series_few, objective="adversarial", step_mask="none", local_weight=0.0)
    batch = viewed(found)
    views = batch.views["series"]
    views[4] = views[3]
    a, b = (phase.loss(batch).total for phase in found.method.phases())
    assert torch.allclose(a, -b)
    with pytest.raises(InputError, match="--reg-weight"):
        made(series_few, objective="adversarial", reg_weight=0.5)


def test_the_naive_step(series_few):
    """Both losses from the equations of the card."""
    found = made(series_few, segments=4, reg_weight=0.3, regular_weight=0.2)
    batch = viewed(found)
    x, keep_x, keep_v, u1, u2, pairs, start = batch.views["series"]
    encoder, augmenter = found.method.tower.encoder, found.method.augmenter
    there = ~x.isnan().all(2)
    last = [int(row.nonzero().max()) + 1 for row in there]

    def view(u):
        values = ((x - encoder.mean) / encoder.std).nan_to_num(0.0)
        e = augmenter.backbone.steps(values.masked_fill(x.isnan(), torch.nan))
        w, g = torch.sigmoid(augmenter.keep(e)), torch.sigmoid(augmenter.scale(e))
        eps = (2 * 0.05 - 1) * u + 0.95
        m = (torch.sigmoid(eps.log() - (1 - eps).log() + (w / (1 - w)).log()) * 1.05 - 0.05).clamp(0, 1)
        return (g * m * values * encoder.std + encoder.mean).masked_fill(x.isnan(), torch.nan), w, m

    def features(s, keep=None):
        z = encoder.steps(s, keep)
        return z, torch.stack([row[:n].amax(0) for row, n in zip(z, last, strict=True)])

    v, w, m = view(u1)
    a, b = features(x)[1], features(v)[1]
    both = torch.cat([a, b])
    d = (both[:, None] - both[None]).square().sum(2)
    n = len(a)
    k = sum(torch.exp(-d / (d.sum().detach() / (2 * n * (2 * n - 1)) / 4 * 2**s)) for s in range(5))
    mmd = (k[:n, :n] + k[n:, n:] - k[:n, n:] - k[n:, :n]).mean()
    kept = torch.cat([row[:length].sum(1) for row, length in zip(w, last, strict=True)]).mean()
    terms = []
    for s0, s1 in pairs.tolist():
        gap, here = (w[:, s0] - w[:, s1]).abs(), w[:, s0]
        smooth = (here - w[:, s0 - 1]).abs() + (here - w[:, s0 + 1]).abs()
        terms.append((smooth + (1 - gap if abs(s1 - s0) > 1 else gap)).mean())
    wanted = mmd + 0.3 * torch.relu(kept - 0.4) + 0.2 * torch.stack(terms).mean()
    (first, shown), (second, _) = ((one.total, one.terms) for one in (p.loss(batch) for p in found.method.phases()))
    assert torch.allclose(first, wanted, atol=1e-5)
    inner = [row[:length].detach() for row, length in zip(m, last, strict=True)]
    assert torch.allclose(shown["kept"], torch.cat(inner).mean())
    assert torch.allclose(shown["kept_spread"], torch.stack([row.var(0) for row in inner]).mean())

    steps, a = features(x, keep_x)
    b = features(view(u2)[0], keep_v)[1]
    a, b = (torch.nn.functional.normalize(z, dim=1) for z in (a, b))
    s = a @ b.T
    contrast = (s.logsumexp(1) - s.diagonal()).mean()
    shortest = min(last)
    length = shortest // 4
    place = min(shortest - 4 * length, int(start[0] * (shortest - 4 * length + 1)))
    unit = torch.nn.functional.normalize(steps, dim=2)[:, place : place + 4 * length]
    q = unit.unflatten(1, (4, length)).amax(2)
    r = q @ q.transpose(1, 2)
    rows = [(0, 1, 3), (1, 2, 3), (2, 3, 0), (3, 2, 0)]
    local = torch.stack([torch.logsumexp(torch.stack([r[:, i, p], r[:, i, j]]), 0) - r[:, i, p] for i, p, j in rows])
    assert torch.allclose(second, contrast + 0.1 * local.mean(), atol=1e-5)
