"""Sampling by inverse propensity and the loss of DebCSE: loops written from the card in float64, its closed forms and
invariants, edges, gradients."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.losses import (
    debcse,
    debcse_expected,
    gumbel_top_k,
    info_nce,
    inverse_propensity,
    log_propensity,
    near_columns,
    negative_probabilities,
    positive_probabilities,
    semantic_similarity,
)
from nearfar.similarity.exchange import exchange

SIDES = {"positive": (positive_probabilities, 1, 0.1, 0.5), "negative": (negative_probabilities, -1, 0.5, 0.8)}


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vectors(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(side, a, s, t_a=0.2, t=None, theta=None, eps=0.01):
    """One anchor: lists of a and s -> probabilities."""
    _, sign, t_default, theta_default = SIDES[side]
    t, theta = t or t_default, theta_default if theta is None else theta
    terms = [math.exp(sign * x / t_a) for x in a]
    e = [x / sum(terms) for x in terms]
    w = [math.exp(sign * y / t) * (y >= theta if sign > 0 else y <= theta) for y in s]
    w = [x / max(y, eps) for x, y in zip(w, e, strict=True)]
    if sum(w) == 0:
        w = [float(y == max(s)) for y in s] if sign > 0 else [0.0] * len(s)
    return [x / sum(w) if sum(w) else 0.0 for x in w]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("options", [{}, {"surface_temperature": 0.05, "eps": 0.0}, {"temperature": 0.7, "eps": 0.3},
                                     {"threshold": 0.3}])  # fmt: skip
def test_probabilities_are_those_of_the_card(side, options):
    a, s = drawn(40, 7, seed=1), drawn(40, 7, seed=2)
    s[:3] = s[:3] * (0.3 if side == "positive" else 0.1) + (0 if side == "positive" else 0.85)  # none passes
    s[0] = s[0, 0]
    pi = SIDES[side][0](a, s, **options)
    renamed = {"surface_temperature": "t_a", "temperature": "t", "threshold": "theta", "eps": "eps"}
    wanted = [naive(side, x, y, **{renamed[k]: v for k, v in options.items()})
              for x, y in zip(a.tolist(), s.tolist(), strict=True)]  # fmt: skip
    assert_close(pi, torch.tensor(wanted, dtype=torch.float64), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", SIDES)
def test_they_sum_to_one_and_are_zero_beyond_the_threshold(side):
    find, sign, _, theta = SIDES[side]
    a, s = drawn(60, 8, seed=3), drawn(60, 8, seed=4)
    where = drawn(60, 8, seed=5) > 0.4
    where[0] = False
    pi = find(a, s, where=where)
    fits = where & (s >= theta if sign > 0 else s <= theta)
    some = fits.any(1)
    assert_close(pi[some].sum(1), torch.ones(int(some.sum()), dtype=torch.float64))
    assert (pi[some][~fits[some]] == 0).all()
    assert (pi[some][fits[some]] > 0).all()
    assert (pi[0] == 0).all()
    fallback = pi[~some & where.any(1)]
    assert_close(fallback.sum(1), torch.ones(len(fallback), dtype=torch.float64) * (sign > 0))
    for i in range(60):
        kept = where[i].nonzero()[:, 0]
        alone = find(a[i : i + 1, kept], s[i : i + 1, kept]) if len(kept) else pi[i : i + 1, kept]
        assert_close(pi[i, kept], alone[0], msg="a candidate that is not there changes nothing")
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert_close(find(a[:, order], s[:, order], where=where[:, order]), pi[:, order])


@pytest.mark.parametrize("side", SIDES)
def test_closed_forms(side):
    find, sign, t, theta = SIDES[side]
    a, s = drawn(30, 6, seed=6), drawn(30, 6, seed=7)
    fits = s >= theta if sign > 0 else s <= theta
    some = fits.any(1)

    def soft(x):
        return torch.where(fits, x, -math.inf).softmax(1)[some]

    assert_close(find(a, s, surface_temperature=math.inf)[some], soft(sign * s / t), rtol=1e-9, atol=1e-9)
    assert_close(find(a, s, surface_temperature=1e9)[some], soft(sign * s / t), rtol=1e-7, atol=1e-7)
    assert_close(find(a, s, eps=1.0)[some], soft(sign * s / t), rtol=1e-9, atol=1e-9)
    top = float(log_propensity(sign * a, 0.2).max().exp())
    assert_close(find(a, s, eps=top)[some], soft(sign * s / t), rtol=1e-9, atol=1e-9)
    assert_close(find(a, s, eps=0.0)[some], soft(sign * (s / t - a / 0.2)), rtol=1e-9, atol=1e-9)
    uniform = find(a, s, surface_temperature=math.inf, temperature=math.inf, threshold=-sign * math.inf)
    assert_close(uniform, torch.full((30, 6), 1 / 6, dtype=torch.float64))
    alike = find(a, torch.full_like(a, 0.6), eps=0.0)
    higher = alike.gather(1, a.argsort(1)).diff(dim=1)
    assert (higher * sign < 0).all(), "of equal meaning: less with the surface for positives, more for negatives"


def test_extremes_stay_finite_and_the_weighting_is_one_function():
    a, s = drawn(5, 4, seed=8), drawn(5, 4, seed=9)
    for t in (1e-6, 1e-3, 1e6):
        for find, *_ in SIDES.values():
            for half in (torch.float32, torch.float16):
                pi = find(a.to(half), s.to(half), surface_temperature=max(t, 1e-3), temperature=max(t, 1e-3), eps=0.0)
                assert pi.isfinite().all()
            assert find(a, s, surface_temperature=t, temperature=t, eps=0.0).isfinite().all()
    seen = []

    def own(preference, log_e, eps):
        seen.append((preference, log_e, eps))
        return preference * 0

    found = positive_probabilities(a, s, threshold=0.0, weighting=own)
    assert_close(found, torch.full_like(a, 0.25))
    assert_close(seen[0][1], log_propensity(a, 0.2))
    assert seen[0][2] == 0.01
    assert_close(inverse_propensity(s, log_propensity(a), 0.0), s - log_propensity(a))
    assert find_nothing(positive_probabilities) == find_nothing(negative_probabilities) == (3, 0)
    assert not positive_probabilities(a.requires_grad_(), s.requires_grad_()).requires_grad
    with pytest.raises(InputError, match="must be above 0"):
        log_propensity(a, 0.0)
    with pytest.raises(InputError, match="of each anchor and its candidates"):
        positive_probabilities(a, s[:, :2])
    with pytest.raises(InputError, match="eps"):
        negative_probabilities(a, s, eps=-1.0)


def find_nothing(find):
    return tuple(find(torch.zeros(3, 0), torch.zeros(3, 0)).shape)


def test_meaning_is_the_cosine_without_its_negative_half():
    x, c = vectors(3, 5), vectors(3, 4, 5, seed=1)
    c[0, 0], c[1, 1], c[2, 2] = 3 * x[0], -x[1], 0
    wanted = [[max(0.0, float(torch.dot(x[i], c[i, m]) / (x[i].norm() * c[i, m].norm()).clamp(min=1e-12)))
               for m in range(4)] for i in range(3)]  # fmt: skip
    found = semantic_similarity(x, c)
    assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    assert (found[0, 0].item(), found[1, 1].item(), found[2, 2].item()) == (pytest.approx(1), 0, 0)


def test_gumbel_draws():
    """20,000 draws: the first pick follows pi (chi-square), the pair that of drawing twice; nothing twice."""
    pi = torch.tensor([0.5, 0.0, 0.25, 0.05, 0.2], dtype=torch.float64)
    n = 20_000
    found = gumbel_top_k(pi.expand(n, 5), 3, drawn(n, 5, seed=11))
    counts = torch.bincount(found[:, 0], minlength=5).double()
    assert counts[1] == 0
    some = pi > 0
    chi = ((counts - n * pi)[some].square() / (n * pi)[some]).sum().item()
    assert chi < 16.3  # 0.1 % of the distribution with 3 degrees of freedom
    wanted = torch.zeros(5, 5, dtype=torch.float64)
    for i in some.nonzero()[:, 0].tolist():
        for j in some.nonzero()[:, 0].tolist():
            wanted[i, j] = 0.0 if i == j else pi[i] * pi[j] / (1 - pi[i])
    pairs = torch.bincount(found[:, 0] * 5 + found[:, 1], minlength=25).view(5, 5).double()
    held = wanted > 0
    assert (pairs[~held] == 0).all()
    chi = ((pairs - n * wanted)[held].square() / (n * wanted)[held]).sum().item()
    assert chi < 31.3  # 11 degrees of freedom
    assert all(len({*row}) == 3 for row in found[:500].tolist())


def test_gumbel_edges():
    u = drawn(2, 3)
    pi = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert gumbel_top_k(pi, 2, u).tolist() == [[1, -1], [-1, -1]]
    assert gumbel_top_k(pi, 5, u).shape == (2, 5)
    assert gumbel_top_k(pi, 0, u).shape == (2, 0)
    assert gumbel_top_k(pi[:, :0], 2, u[:, :0]).tolist() == [[-1, -1], [-1, -1]]
    ends = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    assert gumbel_top_k(torch.full((1, 2), 0.5, dtype=torch.float64), 2, ends).tolist() == [[1, 0]]
    ends = ends.float().clamp(max=1 - 2**-24)
    assert gumbel_top_k(torch.full((1, 2), 0.5), 2, ends).tolist() == [[1, 0]]


def cosine(x, y):
    return torch.dot(x, y) / (x.norm() * y.norm()).clamp(min=1e-12)


def naive_loss(z, p, n, where, t):
    total = []
    for i in range(len(z)):
        terms = [cosine(z[i], p[j]) / t for j in range(len(z))]
        terms += [cosine(z[i], n[j, h]) / t for j in range(len(z)) for h in range(n.shape[1]) if where[j, h]]
        total.append(torch.stack(terms).logsumexp(0) - terms[i])
    return torch.stack(total).mean()


@pytest.mark.parametrize("h", [0, 1, 3])
def test_loss(h):
    z, p, n = vectors(5, 4), vectors(5, 4, seed=1), vectors(5, h, 4, seed=2)
    where = drawn(5, h, seed=3) > 0.3
    for t in (0.05, 1.0):
        assert_close(debcse(z, p, n, where=where, temperature=t), naive_loss(z, p, n, where, t), rtol=1e-9, atol=1e-9)
    every = torch.ones(5, h, dtype=torch.bool)
    assert_close(debcse(z, p, n), naive_loss(z, p, n, every, 0.05), rtol=1e-9, atol=1e-9)
    assert debcse(z, p, n) >= debcse(z, p, n, where=where) >= debcse(z, p, n[:, :0]), "negatives never lower it"
    assert_close(debcse(z, p, n[:, :0]), info_nce(z, p, temperature=0.05))
    if h:
        a, b, c = (x.clone().requires_grad_() for x in (z, p, n))
        assert gradcheck(lambda x, y, w: debcse(x, y, w, where=where, temperature=0.5), (a, b, c))
        debcse(a, b, c, where=where).backward()
        assert (c.grad[~where] == 0).all()
    flipped = vectors(8, 5).T.contiguous().T[:5, :4]
    assert_close(debcse(flipped, p, n), debcse(flipped.contiguous(), p, n))


def test_loss_edges():
    one, other = vectors(1, 3), vectors(1, 3, seed=1)
    assert debcse(one, other, one.new_zeros(1, 0, 3)).item() == 0
    assert debcse(one, other, vectors(1, 2, 3, seed=4), where=torch.zeros(1, 2, dtype=torch.bool)).item() == 0
    zero = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    found = debcse(zero, zero, zero[:, None])
    assert found.item() == pytest.approx(math.log(6))
    found.backward()
    assert zero.grad.isfinite().all()
    x, p, n = (vectors(*shape, seed=k) for k, shape in enumerate([(4, 6), (4, 6), (4, 2, 6)]))
    exact = debcse(x, p, n)
    for half in (torch.float16, torch.bfloat16):
        assert debcse(x.to(half), p.to(half), n.to(half)).item() == pytest.approx(exact.item(), rel=0.1)
    assert debcse(x, p, n, temperature=1e-3).isfinite()


def naive_expected(z, p, pi, n, pn, h, t):
    rows = []
    for i in range(len(z)):

        def e(v, i=i):
            return (cosine(z[i], v) / t).exp()

        rest = sum(pi[j, m] * e(p[j, m]) for j in range(len(z)) if j != i for m in range(p.shape[1]))
        rest = rest + sum(h * pn[j, k] * e(n[j, k]) for j in range(len(z)) for k in range(n.shape[1]))
        rows.append(sum(-pi[i, m] * (e(p[i, m]) / (e(p[i, m]) + rest)).log() for m in range(p.shape[1])))
    return torch.stack(rows).mean()  # fmt: skip


def test_expected_loss():
    z, p, n = vectors(4, 3), vectors(4, 3, 3, seed=1), vectors(4, 5, 3, seed=2)
    pi, pn = drawn(4, 3, seed=3).softmax(1), drawn(4, 5, seed=4).softmax(1)
    pi[1, 2], pn[2] = 0.0, 0.0
    found = debcse_expected(z, p, pi, n, pn, drawn=2, temperature=0.4)
    assert_close(found, naive_expected(z, p, pi, n, pn, 2, 0.4), rtol=1e-9, atol=1e-9)
    a, b, c = (x.clone().requires_grad_() for x in (z, p, n))
    assert gradcheck(lambda x, y, w: debcse_expected(x, y, pi, w, pn, temperature=0.5), (a, b, c))
    order, back = torch.tensor([2, 0, 1]), torch.tensor([4, 1, 0, 3, 2])
    assert_close(
        debcse_expected(z, p[:, order], pi[:, order], n[:, back], pn[:, back], drawn=2, temperature=0.4), found
    )
    sure, sure_n = torch.eye(3)[[0, 2, 1, 1]].double(), torch.eye(5)[[4, 0, 0, 2]].double()
    where = torch.tensor([True, True, False, True])
    sure_n[2] = 0
    rows = torch.arange(4)
    one = debcse(z, p[rows, sure.argmax(1)], n[rows, sure_n.argmax(1)][:, None], where=where[:, None])
    assert_close(debcse_expected(z, p, sure, n, sure_n), one, rtol=1e-9, atol=1e-9)
    alone = debcse_expected(z[:1], p[:1], pi[:1], n[:1, :0], pn[:1, :0])
    assert alone.item() == 0


def test_equal_and_similar_columns_are_hidden():
    z, p, n = vectors(3, 4), vectors(3, 2, 4, seed=1), vectors(3, 1, 4, seed=2)
    pi, pn = torch.full((3, 2), 0.5, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    own = torch.tensor([7, 8, 9])
    columns = torch.tensor([7, 7, 8, 8, 9, 9, 8, -1, 9])
    found = debcse_expected(z, p, pi, n, pn, kinds=[(own, columns)])
    rows = []
    for i in range(3):
        seen = [(j, k) for j in range(3) for k in range(3)
                if own[i] != columns[2 * j + k if k < 2 else 6 + j] and (j != i or k == 2)]  # fmt: skip
        rest = sum(
            (0.5 if k < 2 else 1.0) * (cosine(z[i], p[j, k] if k < 2 else n[j, 0]) / 0.05).exp() for j, k in seen
        )
        rows.append(sum(0.5 * (1 + rest / (cosine(z[i], p[i, m]) / 0.05).exp()).log() for m in range(2)))
    assert_close(found, torch.stack(rows).mean())
    near = near_columns(z, torch.cat([p.flatten(0, 1), n[:, 0]]), 0.1, exchange("local")).matrix
    wanted = [[cosine(x, y).item() > 0.1 for y in torch.cat([p.flatten(0, 1), n[:, 0]])] for x in z]
    assert near.tolist() == wanted


def test_sides_of_unequal_shape_are_refused():
    make = torch.Generator().manual_seed(0)

    def of(*shape):
        return torch.randn(*shape, generator=make)

    a, p, n = of(3, 4), of(3, 4), of(3, 1, 4)
    for wrong in ((a, of(2, 4), n), (a, p, of(2, 1, 4)), (a, p, of(3, 4)), (a, p, of(3, 1, 5))):
        with pytest.raises(InputError, match=r"Anchors and positives must be \(n, d\)"):
            debcse(*wrong)
    with pytest.raises(InputError, match="'where' must be"):
        debcse(a, p, n, where=torch.ones(3, 2, dtype=torch.bool))
    pi = torch.ones(3, 1)
    with pytest.raises(InputError, match="probabilities"):
        debcse_expected(a, p[:, None], torch.ones(3, 2), n, pi)
    with pytest.raises(InputError, match="k"):
        gumbel_top_k(pi, -1, pi * 0.5)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": 0.0}, {"threshold": float("nan")}])
@pytest.mark.parametrize("probabilities", [positive_probabilities, negative_probabilities])
def test_temperatures_and_thresholds_of_no_meaning_are_refused(probabilities, wrong):
    x = torch.rand(3, 4)
    with pytest.raises(InputError, match="above 0 and the threshold a number"):
        probabilities(x, x, **wrong)


@pytest.mark.parametrize("probabilities", [positive_probabilities, negative_probabilities])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_half_precision_are_computed_in_single(probabilities, dtype):
    a, s = (torch.rand(5, 6, generator=torch.Generator().manual_seed(k)).to(dtype) for k in range(2))
    torch.testing.assert_close(probabilities(a, s), probabilities(a.float(), s.float()))
    assert probabilities(a, s, surface_temperature=1e-6, eps=0.0).isfinite().all()
