"""The hard contrastive loss as a method: thresholds a direction and an anchor, four variants, and the measures."""

import math

import pytest
import torch
from torch.testing import assert_close

from nearfar import evaluation, losses
from nearfar.losses import rows
from nearfar.losses.rows import relative_penalty
from nearfar.similarity import one_way
from nearfar.training import building
from nearfar.training.settings import TrainSettings
from tests.losses.cases import batch as pairs
from tests.methods.command_line import curve_of

VARIANTS = {
    "ordinary": lambda a, b: losses.clip(a, b, temperature=0.4),
    "simple": losses.simple,
    "hard": lambda a, b: losses.hard_contrastive(a, b, temperature=0.4, alpha=0.3),
    "hard-simple": lambda a, b: losses.simple(a, b, alpha=0.3),
}


def make(data, **options):
    given = {"temperature": 0.4, "alpha": 0.3, "mask_duplicates": False, **options}
    return building.prepare("contrastive-behaviour", data, TrainSettings(batch_size=8, steps=6, warmup=0), given)


def step(made, number=0):
    batch = made.loader.at(number)
    batch.views = made.method.make_views(batch)
    embedded = made.method.encode(batch)
    made.method.before_targets(batch)
    embedded |= made.method.targets(batch)
    return embedded, batch, made.method.loss(embedded, batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_its_equation_over_cross_view_negatives(emoji_few, variant):
    made = make(emoji_few, form=variant)
    embedded, _, loss = step(made)
    assert torch.allclose(loss.total, VARIANTS[variant](*embedded["views"]), atol=1e-6)
    assert ("penalty_entropy" in loss.terms) == (variant in ("ordinary", "hard"))
    spread = torch.nn.functional.normalize(embedded["views"][0], dim=1).mean(0).norm()
    assert spread < 0.5, "batch norm after the head: the vectors start spread out"


def test_one_direction_more_views_a_memory_and_a_teacher(emoji_few):
    made = make(emoji_few, symmetric=False)
    embedded, _, loss = step(made)
    a, b = embedded["views"]
    forth = one_way(a, b, temperature=0.4).loss(lambda s: rows.hard_rows(s, alpha=0.3))
    assert torch.allclose(loss.total, forth)
    crops = make(emoji_few, views={"name": "multi-crop", "small": 1})
    z = step(crops)[0]["views"]
    expected = torch.stack([VARIANTS["hard"](z[i], z[j]) for i, j in ((0, 1), (0, 2), (1, 2))]).mean()
    assert torch.allclose(step(crops)[2].total, expected, atol=1e-5)
    for options in ({"negatives": {"name": "queue", "size": 16}}, {"momentum": "auto", "negatives": "queue"}):
        kept = make(emoji_few, **options)
        embedded, batch, first = step(kept)
        first.total.backward()
        kept.method.after_step({k: [x.detach() for x in v] for k, v in embedded.items()}, batch)
        embedded, batch, second = step(kept, 1)
        assert torch.isfinite(second.total)
        queue = kept.method.negatives
        assert int(queue.filled.sum()) == 8
        if "momentum" not in options:
            a, b = embedded["views"]
            past = queue.keys[queue.filled]
            whole = [one_way(x, torch.cat([y, past]), temperature=0.4) for x, y in ((a, b), (b, a))]
            forth, back = (made.loss(lambda s: rows.hard_rows(s, alpha=0.3)) for made in whole)
            assert torch.allclose(second.total, (forth + back) / 2, atol=1e-6)


def test_relative_penalty_is_what_the_gradient_says():
    a, b, _ = pairs(7, 4, seed=2)
    for t in (0.05, 0.5):
        s = one_way(a, b, temperature=t).parts[0]
        r = relative_penalty(s)
        logits = s.dense().detach().requires_grad_()
        torch.nn.functional.cross_entropy(logits, torch.arange(7), reduction="sum").backward()
        slope, own = logits.grad, logits.grad.diagonal()
        off = ~torch.eye(7, dtype=torch.bool)
        assert_close((slope.abs() / own.abs()[:, None])[off], r[off])
        assert_close(slope.sum(1), torch.zeros(7, dtype=torch.float64))
        assert_close(r.sum(1), torch.ones(7, dtype=torch.float64))
        entropy = -(r * r.clamp(min=1e-300).log()).sum(1)
        assert_close(rows.entropy_rows(s), entropy)
    moved = one_way(torch.cat([a, a.new_ones(7, 1)], 1), torch.cat([b, b.new_ones(7, 1)], 1), similarity="dot").parts[0]
    plain = one_way(a, b, similarity="dot").parts[0]
    assert_close(relative_penalty(moved), relative_penalty(plain))
    assert_close(rows.info_nce_rows(moved), rows.info_nce_rows(plain))
    assert not torch.allclose(rows.simple_rows(moved, weight=0.5), rows.simple_rows(plain, weight=0.5))
    assert_close(rows.simple_rows(moved), rows.simple_rows(plain))
    alone = one_way(a[:1], b[:1]).parts[0]
    assert relative_penalty(alone).tolist() == [[0.0]]
    assert rows.entropy_rows(alone).tolist() == [0.0]


def test_entropy_rises_with_the_temperature_as_its_variance_says():
    a, b, _ = pairs(9, 4, seed=3)
    for t in (0.1, 0.5, 2.0):
        temperature = torch.full((9, 1), t, dtype=torch.float64, requires_grad=True)
        s = one_way(a, b, temperature=temperature).parts[0]
        slope = torch.autograd.grad(rows.entropy_rows(s).sum(), temperature)[0][:, 0]
        r, cosine = relative_penalty(s).detach(), (s.dense() * t).detach()
        variance = (r * cosine**2).sum(1) - (r * cosine).sum(1) ** 2
        assert_close(slope, variance / t**3)
        assert (slope > 0).all()
    far, near = (rows.entropy_rows(one_way(a, b, temperature=t).parts[0]) for t in (1e4, 1e-3))
    assert_close(far, torch.full((9,), math.log(8), dtype=torch.float64), atol=1e-4, rtol=1e-4)
    assert (near < 1e-3).all()


def test_limits_of_the_temperature():
    a, b, _ = pairs(8, 4, seed=4)
    n, m, t = 8, 7, 1e4
    s = one_way(a, b).parts[0].dense()
    others = (s.sum() - s.trace()) / n
    series = math.log(n) - m / n * s.trace() / n / t + others / (n * t)
    assert_close(losses.info_nce(a, b, temperature=t), series, rtol=0, atol=1e-7)


def test_uniformity_and_tolerance_of_the_paper():
    z = torch.randn(12, 5).numpy()
    labels = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 4]
    u = z / (z**2).sum(1, keepdims=True) ** 0.5
    same = [float(u[i] @ u[j]) for i in range(12) for j in range(12) if i != j and labels[i] == labels[j]]
    far = [math.exp(-2 * float(((u[i] - u[j]) ** 2).sum())) for i in range(12) for j in range(12) if i != j]
    from nearfar.evaluation import diagnostics

    assert diagnostics.tolerance(z, labels) == pytest.approx(sum(same) / len(same), rel=1e-5)
    assert diagnostics.uniformity(z, t=2) == pytest.approx(math.log(sum(far) / len(far)), rel=1e-5)
    assert diagnostics.uniformity(z * 0 + 1) == pytest.approx(0, abs=1e-6)
    assert {"uniformity", "tolerance"} <= {d.name for d in evaluation.diagnose(z, labels=labels)}


@pytest.mark.parametrize("words", [["--alpha", "0.2"], ["--form", "hard-simple", "--symmetric", "false"]])
def test_it_trains_from_the_command_line(words, tmp_path, capsys):
    out = tmp_path / "run"
    curve = curve_of("contrastive-behaviour", out, capsys, *words)
    assert curve[-1]["step"] == 12
    assert ("penalty_entropy" in curve[0]) == ("--form" not in words)


def test_the_papers_literals(emoji_few):
    settings = TrainSettings(batch_size=8, steps=2, preset="paper")
    made = building.prepare("contrastive-behaviour", emoji_few, settings, {})
    assert made.method.row_loss.alpha == 0.0819
