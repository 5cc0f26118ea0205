"""The optimisers as their papers have them, the schedule, clipping: against steps written naively in float64."""

import importlib.util
import math

import pytest
import torch
from timm.optim import get_optimizer_info

from nearfar.errors import InputError
from nearfar.methods.optimisation import Optimisation, check_optimiser, known_optimisers
from nearfar.training import building
from nearfar.training.settings import TrainSettings

LR, DECAY, STEPS = 0.01, 0.1, 3


def adam(w, g, s, t, decay, betas=(0.9, 0.999), eps=1e-8, decoupled=True):
    g = g if decoupled else g + decay * w
    s["m"] = betas[0] * s.get("m", 0 * g) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0 * g) + (1 - betas[1]) * g * g
    m, v = s["m"] / (1 - betas[0] ** t), s["v"] / (1 - betas[1] ** t)
    step = m / (v.sqrt() + eps)
    return w - LR * (step + (decay * w if decoupled else 0))


def lamb(w, g, s, t, decay):
    """You et al., ICLR 2020, algorithm 2: every layer has a trust ratio; nothing is clipped."""
    s["m"] = 0.9 * s.get("m", 0 * g) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0 * g) + 0.001 * g * g
    r = s["m"] / (1 - 0.9**t) / ((s["v"] / (1 - 0.999**t)).sqrt() + 1e-6) + decay * w
    trust = w.norm() / r.norm() if w.norm() > 0 and r.norm() > 0 else 1.0
    return w - LR * trust * r


def sgd(w, g, s, t, decay):
    """With momentum, not Nesterov's."""
    g = g + decay * w
    s["b"] = 0.9 * s["b"] + g if "b" in s else g
    return w - LR * s["b"]


def nesterov(w, g, s, t, decay):
    g = g + decay * w
    s["b"] = 0.9 * s["b"] + g if "b" in s else g
    return w - LR * (g + 0.9 * s["b"])


def lars(w, g, s, t, decay):
    """You et al., 2017, with SimCLR's rule: parameters without decay take plain steps."""
    trust = 0.001 * w.norm() / (g.norm() + decay * w.norm() + 1e-8) if decay else 1.0
    g = (g + decay * w) * trust
    s["b"] = 0.9 * s["b"] + g if "b" in s else g
    return w - LR * s["b"]


def lion(w, g, s, t, decay):
    """Chen et al., 2023."""
    m = s.get("m", 0 * g)
    w = w - LR * ((0.9 * m + 0.1 * g).sign() + decay * w)
    s["m"] = 0.99 * m + 0.01 * g
    return w


def rmsprop(w, g, s, t, decay):
    g = g + decay * w
    s["v"] = 0.9 * s.get("v", 0 * g) + 0.1 * g * g
    return w - LR * g / (s["v"].sqrt() + 1e-8)


def adagrad(w, g, s, t, decay):
    g = g + decay * w
    s["v"] = s.get("v", 0 * g) + g * g
    return w - LR * g / (s["v"].sqrt() + 1e-8)


def adafactor(w, g, s, t, decay):
    """Shazeer and Stern, 2018, algorithm 4 at a given learning rate: factored from 2 dimensions on, updates clipped at
    a root mean square of 1."""
    beta, square = 1 - t**-0.8, g * g + 1e-30
    if g.dim() > 1 and min(g.shape) > 16:
        s["r"] = beta * s.get("r", 0 * square.mean(-1)) + (1 - beta) * square.mean(-1)
        s["c"] = beta * s.get("c", 0 * square.mean(-2)) + (1 - beta) * square.mean(-2)
        v = s["r"][:, None] * s["c"][None] / s["r"].mean()
    else:
        s["v"] = beta * s.get("v", 0 * square) + (1 - beta) * square
        v = s["v"]
    u = g / v.sqrt()
    u = u / max(1.0, float(u.square().mean().sqrt()))
    return w - LR * u - LR * decay * w


NAIVE = {
    "adamw": adam,
    "adam": lambda *a: adam(*a, decoupled=False),
    "lamb": lamb,
    "sgd": sgd,
    "nesterov": nesterov,
    "lars": lars,
    "lion": lion,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adafactor": adafactor,
}


def taken(optimisation, steps=STEPS):
    """A weight and a bias after some steps on random gradients, large ones first; their starts and the gradients."""
    drawn = torch.Generator().manual_seed(5)
    begun = [torch.randn(19, 17, generator=drawn).double(), torch.randn(7, generator=drawn).double()]
    made = [torch.nn.Parameter(x.clone()) for x in begun]
    gradients = [[torch.randn(x.shape, generator=drawn).double() * 30 / (t + 1) for x in begun] for t in range(steps)]
    optimiser = optimisation.make(optimisation.groups(made, {}))
    for now in gradients:
        for p, g in zip(made, now, strict=True):
            p.grad = g.clone()
        optimisation.clip(made)
        optimiser.step()
    return begun, gradients, [p.detach() for p in made]


@pytest.mark.parametrize("name", NAIVE)
def test_an_optimiser_is_the_published_one(name):
    begun, gradients, made = taken(Optimisation(name, LR, DECAY))
    for k, (w, decay) in enumerate(zip(begun, (DECAY, 0.0), strict=True)):
        state = {}
        for t, now in enumerate(gradients, 1):
            w = NAIVE[name](w, now[k], state, t, decay)
        torch.testing.assert_close(made[k], w, rtol=1e-9, atol=1e-12)


def test_lamb_is_not_clipped_by_timm():
    """Gradients ten times as large give the same first step: Adam's ratio does not see their size."""
    o = Optimisation("lamb", LR, DECAY)
    assert o.settings()["max_grad_norm"] is None
    assert "not clipped" in o.describe()


def refused(name):
    info = get_optimizer_info(name)
    package = info.opt_class.partition(".")[0] if isinstance(info.opt_class, str) else ""
    return name == "adahessian" or (package and importlib.util.find_spec(package) is None)


REFUSED = {name for name in known_optimisers() if refused(name)}


@pytest.mark.parametrize("name", sorted(set(known_optimisers())))
def test_every_known_optimiser_steps_or_is_refused(name):
    """A name that `fit` accepts trains; another is refused before anything is written."""
    if name in REFUSED:
        with pytest.raises(InputError, match="needs"):
            check_optimiser(name)
        return
    check_optimiser(name)
    if name.startswith(("bnb", "fused")):
        pytest.skip("needs a GPU")
    o = Optimisation(name, LR, DECAY)
    begun, _, made = taken(o)
    assert all(bool(torch.isfinite(p).all()) for p in made)
    assert not torch.equal(begun[0], made[0])
    assert o.describe().startswith(name)


def test_clipping_scales_all_gradients_together():
    begun, gradients, made = taken(Optimisation("sgd", LR, 0.0, momentum=0.0, clip_norm=2.0), steps=1)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients[0]))
    assert norm > 2
    for w, g, p in zip(begun, gradients[0], made, strict=True):
        torch.testing.assert_close(p, w - LR * g * 2 / norm, rtol=1e-5, atol=1e-9)
    _, small, kept = taken(Optimisation("sgd", LR, 0.0, momentum=0.0, clip_norm=1e9), steps=1)
    torch.testing.assert_close(kept[1], begun[1] - LR * small[0][1])


def test_betas_reach_the_optimiser():
    begun, gradients, made = taken(Optimisation("adamw", LR, DECAY, betas=(0.5, 0.7), eps=1e-3))
    w, state = begun[1], {}
    for t, now in enumerate(gradients, 1):
        w = adam(w, now[1], state, t, 0.0, (0.5, 0.7), 1e-3)
    torch.testing.assert_close(made[1], w)
    for name in ("sgd", "lars", "adan"):
        with pytest.raises(InputError, match="betas"):
            check_optimiser(name, (0.9, 0.98))


def test_decay_and_trust_of_biases_on_request():
    _, gradients, made = taken(Optimisation("lars", LR, DECAY, decay_all=True, adapt_all=True))
    begun, state = taken(Optimisation("lars", LR, DECAY))[0], {}
    w = begun[1]
    for t, now in enumerate(gradients, 1):
        w = lars(w, now[1], state, t, DECAY)
    torch.testing.assert_close(made[1], w)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_warm_up_and_floor(final):
    """factor(t) = (1 - rho) t / W below W, then from 1 to rho: step 0 stands still."""
    linear = Optimisation(warmup=4, schedule="linear", final=final)
    for t in range(20):
        expected = (1 - final) * t / 4 if t < 4 else max(0, 1 + (final - 1) * (t - 4) / (20 - 4))
        assert linear.factor(t, 20) == pytest.approx(expected, abs=1e-12)
    cosine = Optimisation(warmup=4, final=final)
    assert cosine.factor(0, 20) == 0
    assert cosine.factor(4, 20) == 1
    assert cosine.factor(20, 20) == pytest.approx(final)
    assert Optimisation(schedule="constant", warmup=0).factor(0, 20) == 1


def test_options_reach_the_method(emoji_few):
    settings = TrainSettings(batch_size=8, steps=40, optimiser="adamw", betas=(0.8, 0.9), clip_norm=1.5, final_lr=0.2)
    made = building.prepare("simclr", emoji_few, settings, {})
    o = made.method.optimisation
    assert (o.betas, o.clip_norm, o.final) == ((0.8, 0.9), 1.5, 0.2)
    assert made.resolved["optimiser"] == "adamw (betas 0.8 and 0.9; gradients clipped at norm 1.5)"


def test_the_papers_optimiser_unless_another_is_named(emoji_few):
    def made(**given):
        settings = TrainSettings(batch_size=8, steps=40, preset="paper", **given)
        return building.prepare("swav", emoji_few, settings, SMALL)

    paper = made().method.optimisation
    assert (paper.optimiser, paper.weight_decay, paper.final) == ("lars", 1e-6, 1e-3)
    assert paper.lr == pytest.approx(0.6 * 8 / 256)
    assert paper.adapt_all
    assert paper.decay_all
    own = made(optimiser="adamw", lr=1e-3).method.optimisation
    assert (own.optimiser, own.lr, own.adapt_all) == ("adamw", 1e-3, False)


SMALL = {"prototypes": 12, "queue": 0}
