"""Named losses against loops, on every engine, with their invariances and edges."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError
from nearfar.losses.rows import nearest_rows
from nearfar.similarity import both_ways, engine
from tests.losses import reference
from tests.losses.cases import (
    CASES,
    CONSTANT_WEIGHTS,
    PLAIN,
    VIEWS,
    batch,
    hydra_inputs,
    past,
    sampled_columns,
    with_classes,
)
from tests.losses.test_propensity import naive_expected, naive_loss

ENGINES = (("dense", None), ("streaming", 3))
OPTIONS = {
    "info_nce-symmetric": {"symmetric": True},
    "dcl-weighted": {"sigma": 0.5},
    "siglip": {"bias": -1.0},
    "clip_rocket-sum": {"mode": "sum", "smoothing": 0.0},
    "hard_contrastive": {"alpha": 0.3},
    "triplet-semi-hard": {"mining": "semi-hard"},
    "cwcl-both": {"weighted": "both"},
    "simple-hard": {"alpha": 0.4},
    "cacr-rbf": {"repulsion": "rbf", "beta": 0.7},
    "cacr-rbf-detached": {"repulsion": "rbf", "beta": 0.7},
    "cacr-debiased": {"tau_plus": 0.1},
    "cacr_queue-alone": {"in_batch": False, "beta": 3.0},
    "groco": {"top_k": 3},
    "groco-gradient": {"top_k": 2, "targets": 2, "steepness": 4.0},
    "cacr_targets": {"temperature": 0.4},
    "cacr_targets-euclidean": {"temperature": 0.4, "cost": "euclidean"},
}
WITH_QUEUE = ("cacr_queue", "ins_contrast", "queue_contrast")
OF_COLUMNS = ("barlow_twins", "vicreg", "barlip")  # neither rotations nor lengths leave them as they are
LABELLED = ("sup_con", "mil_nce", "triplet", "soft_nearest_neighbour")


def expected(name, a, b, labels):
    base = name.split("-")[0]
    first = (a + b, labels) if base in LABELLED else (a, b)
    if base == "hydra":
        a, b, gates, y, y2 = hydra_inputs(a, b, labels, name == "hydra-gated")
        gates = torch.ones_like(a) if gates is None else gates
        return reference.hydra(a, b, gates, y, y2, reduction="anchors" if name == "hydra-gated" else "pairs")
    if base in VIEWS:
        first = VIEWS[base](a, b)
    if base == "supremix":
        z, options = torch.cat([a, b]), {"window": None}
        if name == "supremix-mixed":
            options = {"window": 1.5, "shares": torch.full((len(z), len(z)), 0.3, dtype=torch.float64)}
        return reference.supremix(z, (labels.double() * 0.7).repeat(2), **options)
    if base == "ins_contrast":
        first = with_classes(a, b, labels)
    if base.startswith("debcse"):
        positives, pi, negatives, pi_negative, there = sampled_columns(a, b, labels)
        if base == "debcse":
            return naive_loss(a, b, negatives, there, 0.3).item()
        return naive_expected(a, positives, pi, negatives, pi_negative, 2, 0.3).item()
    if base == "queue_contrast":
        first = (a, b, past(a))
    if base == "tree_contrast":
        first = (a, b, labels)
    if base in ("team_up", "cosent", "cosine_regression"):
        first = (a, b, labels * 0.3)
    return getattr(reference, base)(*first, **OPTIONS.get(name, {}))


def test_every_registered_loss_is_tested():
    assert {name.split("-")[0] for name in CASES} | set(PLAIN) == set(losses.__all__)


@st.composite
def batches(draw):
    n, d = draw(st.integers(2, 7)), draw(st.integers(2, 5))
    a, b, _ = batch(n, d, seed=draw(st.integers(0, 10_000)))
    if draw(st.booleans()):
        a[0] = 0
    if draw(st.booleans()):
        b[-1] = b[0]
    labels = torch.tensor(draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)))
    return a, b, labels


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6, deadline=None)
@given(data=batches())
def test_loss_equals_its_equation(name, data):
    a, b, labels = data
    want = expected(name, a, b, labels)
    for kind, tile in ENGINES:
        with engine(kind, tile=tile):
            found = CASES[name][0](a, b, labels)
        assert found.shape == ()
        assert found.item() == pytest.approx(want, rel=1e-8, abs=1e-8)


@st.composite
def coarse(draw):
    """Shapes, a precision, and label patterns: all equal, all different, all unknown, or any. Sums are exact."""
    n, d = draw(st.integers(2, 9)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
    make = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    a, b = (torch.randint(-8, 9, (n, d), generator=make).div(4).to(dtype) for _ in range(2))
    labels = draw(st.sampled_from(["equal", "different", "unknown", "any"]))
    ways = {
        "equal": torch.zeros(n),
        "different": torch.arange(n),
        "unknown": torch.full((n,), -1),
        "any": torch.randint(-1, 3, (n,), generator=make),
    }
    return a, b, ways[labels].long()


@pytest.mark.parametrize("name", [k for k in CASES if k.split("-")[0] not in ("barlow_twins", "vicreg")])
@settings(max_examples=5, deadline=None)
@given(data=coarse(), tile=st.integers(1, 5))
def test_any_shape_precision_and_labels(name, data, tile):
    a, b, labels = data
    exact = CASES[name][0](a.double(), b.double(), labels)
    for kind in ("dense", "streaming"):
        with engine(kind, tile=tile):
            x = a.clone().requires_grad_()
            value = CASES[name][0](x, b, labels)
            value.backward()
        assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    a, b, labels = batch(5, 3, seed=4)
    wanted = None
    for kind, tile in ENGINES:
        with engine(kind, tile=tile):
            x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
            CASES[name][0](x, y, labels).backward()
            found = [x.grad, y.grad if y.grad is not None else torch.zeros_like(y)]
            wanted = wanted or found
            for p, q in zip(found, wanted, strict=True):
                assert_close(p, q, rtol=1e-9, atol=1e-9)
            f = CASES[name][0] if name != "byol" else lambda p, q, labels: CASES["byol"][0](p, b, labels)
            if name.startswith("cwcl"):  # nothing reaches the frozen side
                f = lambda p, q, labels: CASES[name][0](p, b, labels)  # noqa: E731
            if name not in CONSTANT_WEIGHTS and kind == "dense":  # the other engine's gradients are compared above
                assert gradcheck(lambda p, q, f=f: f(p, q, labels), (x, y), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_invariances(name):
    call = CASES[name][0]
    a, b, labels = batch(6, 4, seed=7)
    value = call(a, b, labels)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert_close(call(a[order], b[order], labels[order]), value, rtol=1e-9, atol=1e-9)
    if name == "hydra-gated" or name.split("-")[0] in WITH_QUEUE:  # gates and queue would have to turn as well
        return
    if name not in OF_COLUMNS:
        rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
        assert_close(call(a @ rotation, b @ rotation, labels), value, rtol=1e-9, atol=1e-9)
        if name == "soft_nearest_neighbour":  # plain distances
            return
        together = name.split("-")[0] in VIEWS or name.split("-")[0] in LABELLED  # sums keep their direction
        scale = 3.0 if together else torch.rand(6, 1, dtype=torch.float64) + 0.1
        assert_close(call(a * scale, b * scale, labels), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_accumulated_in_float32(name, dtype):
    a, b, labels = batch(7, 8, seed=3)
    a, b = ((4 * x).round().div(4).to(dtype) for x in (a, b))  # whose sums are exact in half precision
    exact = CASES[name][0](a.double(), b.double(), labels)
    for kind, tile in ENGINES:
        with engine(kind, tile=tile):
            x = a.clone().requires_grad_()
            value = CASES[name][0](x, b, labels)
            value.backward()
        assert value.dtype == torch.float32
        assert x.grad.dtype == dtype
        assert x.grad.isfinite().all()
        assert_close(value.double(), exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", [k for k in CASES if k not in OF_COLUMNS])
def test_autocast_does_not_round_the_similarities(name):
    a, b, labels = batch(9, 16, seed=3, dtype=torch.float32)
    plain = CASES[name][0](a, b, labels)
    for kind, tile in ENGINES:
        with engine(kind, tile=tile), torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(CASES[name][0](a, b, labels), plain, rtol=1e-5, atol=1e-5)


HAS_TEMPERATURE = [
    k
    for k in CASES
    if k.split("-")[0]
    not in ("triplet", "simple", "align_uniform", *OF_COLUMNS, "byol", "siamlip", "cosine_regression", *VIEWS)
]


@pytest.mark.parametrize("name", HAS_TEMPERATURE)
def test_temperature_of_5_thousandths_and_zero_vectors(name):
    a, b, labels = batch(8, 6, seed=5, dtype=torch.float32)
    a[1], b[3] = 0, 0
    exact_in = [a.double().requires_grad_(), b.double()]
    exact = CASES[name][0](*exact_in, labels, temperature=0.005)
    exact.backward()
    for kind, tile in ENGINES:
        with engine(kind, tile=tile):
            x = a.clone().requires_grad_()
            value = CASES[name][0](x, b, labels, temperature=0.005)
            value.backward()
        assert_close(value.double(), exact.detach(), rtol=1e-5, atol=1e-4)
        assert_close(x.grad.double(), exact_in[0].grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_non_contiguous_inputs(name):
    a, b, labels = batch(6, 8, seed=9)
    thin_a, thin_b = a[:, ::2], b.T.contiguous().T[:, ::2]
    value = CASES[name][0](thin_a, thin_b, labels)
    assert_close(value, CASES[name][0](thin_a.contiguous(), thin_b.contiguous(), labels))


ONE = {
    "info_nce": 0,
    "info_nce-symmetric": 0,
    "nt_xent": 0,
    "clip": 0,
    "align": 0,
    "hcl": 0,
    "debiased": 0,
    "hard_contrastive": 0,
    "cwcl": 0,
    "cwcl-both": 0,
    "team_up": 0,
    "groco": 0,
    "groco-gradient": 0,
    "hydra": 0,
    "hydra-gated": 0,
    "sup_con": 0,
    "mil_nce": 0,
    "cosent": 0,
    "triplet": 0,
    "triplet-semi-hard": 0,
    "soft_nearest_neighbour": 0,
    "cacr_targets": 0,
    "clip_rocket": 0,
    "clip_rocket-sum": 0,
    "swalip": 0,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("kind", "tile"), ENGINES)
def test_batch_of_one(name, kind, tile):
    a, b, labels = batch(1, 4)
    a.requires_grad_()
    with engine(kind, tile=tile):
        if name in ("dcl", "dcl-weighted", "align_uniform", "barlow_twins", "vicreg"):
            with pytest.raises(InputError, match=r"one item|at least two"):
                CASES[name][0](a, b, labels)
            return
        value = CASES[name][0](a, b, labels)
        value.backward()
    assert a.grad.isfinite().all()
    if name in ONE:
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert_close(a.grad, torch.zeros_like(a))


@pytest.mark.parametrize("name", CASES)
def test_empty_batch_gives_0_with_a_graph(name):
    if name in ("dcl", "dcl-weighted", "align_uniform", *OF_COLUMNS, "byol"):
        return
    a, b = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4)
    value = CASES[name][0](a, b, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value.item() == 0


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize(("kind", "tile"), ENGINES)
def test_labels_without_positives_or_without_negatives(name, kind, tile):
    a, b, _ = batch(5, 3)
    a.requires_grad_()
    with engine(kind, tile=tile):
        alone = CASES[name][0](a, b, torch.arange(5))
        alone.backward()
        assert alone.item() == 0
        assert_close(a.grad, torch.zeros_like(a))
        unknown = CASES[name][0](a, b, torch.full((5,), -1))
        assert unknown.item() == 0
        together = CASES[name][0](a, b, torch.zeros(5, dtype=torch.long))
        together.backward()
        assert a.grad.isfinite().all()
        assert together.item() == pytest.approx(expected(name, a.detach(), b, torch.zeros(5, dtype=torch.long)))


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("info_nce", math.log(6)),
        ("clip", math.log(6)),
        ("nt_xent", math.log(11)),
        ("sup_con", math.log(5)),
        ("align", 2 * math.log(6)),
        ("negclip", math.log(12) / 2 + math.log(6) / 2),
        ("dcl", math.log(10)),
        ("triplet", 0.2),
        ("mil_nce", math.log(5 / 2)),
        ("soft_nearest_neighbour", math.log(5 / 2)),
        ("hcl", math.log(11)),
        ("debiased", math.log(11)),
        ("hard_contrastive", math.log(6)),
        ("cwcl", 2 * math.log(6)),
        ("simple", 0),
        ("cacr", 0),
        ("byol", 0),
        ("clip_rocket-sum", 2 * math.log(6)),
        ("swalip", math.log(6)),
        ("cacr_targets", 0.8 * math.log(6)),
        ("cacr_targets-euclidean", 0),
        ("align_uniform", 0),
        ("barlow_twins", 4),
        ("vicreg", 25 * (1 - 1e-2)),
    ],
)
def test_value_at_collapse(name, floor):
    a = torch.ones(6, 4, dtype=torch.float64)
    b = a if name == "vicreg" else a / 3  # its distance is that of plain vectors
    assert CASES[name][0](a, b, torch.tensor([0, 0, 0, 1, 1, 1])).item() == pytest.approx(floor, abs=1e-12)


def test_siglip_at_collapse_is_n_log_2_with_the_papers_start():
    a = torch.ones(6, 4, dtype=torch.float64)
    assert losses.siglip(a, a).item() == pytest.approx(6 * math.log(2))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("dcl", math.log(10) - 20, math.log(10) + 20),
        ("simple", -2, 2),
        ("simple-hard", -2, 2),
        ("cacr", -4, 4),
        ("cacr_queue", -4, 4),
        ("cacr_targets-euclidean", -2, 2),
        ("triplet", 0, 2.2),
        ("byol", 0, 4),
    ],
)
def test_documented_range(name, low, high):
    """Opposite and equal vectors reach for the ends, random ones lie between."""
    a, b, labels = batch(6, 4, seed=2)
    corners = torch.eye(4, dtype=torch.float64).repeat(2, 1)[:6]
    values = [CASES[name][0](x, y, labels).item() for x, y in ((a, b), (a, a), (a, -0.9 * a), (corners, corners))]
    assert all(low <= v <= high for v in values)
    assert max(values) > min(values)


def test_simple_loss_reaches_its_ends():
    ends = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    assert losses.simple(ends, ends).item() == pytest.approx(-2)
    assert losses.simple(ends, -ends).item() == pytest.approx(2)
    assert losses.simple(ends, ends, weight=0.5).item() == pytest.approx(-1.5)


@pytest.mark.parametrize(("kind", "tile"), ENGINES)
def test_learned_temperature_and_bias_get_their_gradient(kind, tile):
    a, b, _ = batch(5, 3)
    t, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.3, -1.0))
    with engine(kind, tile=tile):
        for loss in (losses.info_nce, losses.align, losses.nt_xent, losses.dcl):
            assert gradcheck(lambda t, loss=loss: loss(a, b, temperature=t), (t,))
        assert gradcheck(lambda t, bias: losses.siglip(a, b, temperature=t, bias=bias), (t, bias))
        each = torch.rand(5, 1, dtype=torch.float64).add(0.2).requires_grad_()
        assert gradcheck(lambda t: losses.info_nce(a, b, temperature=t, symmetric=True), (each,))


def test_further_negatives_can_only_raise_the_loss():
    a, b, _ = batch(5, 4)
    more = torch.cat([b, batch(7, 4, seed=2)[0]])
    assert losses.info_nce(a, more) > losses.info_nce(a, b)
    assert losses.info_nce(a, more).item() == pytest.approx(reference.info_nce(a, more))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b, y: losses.info_nce(a, b[:3]), "Each query needs a key"),
        (lambda a, b, y: losses.info_nce(a, b[:, :2]), "of one D"),
        (lambda a, b, y: losses.nt_xent(a, b[:3]), "same shape"),
        (lambda a, b, y: losses.clip(a, b, temperature=0.0), "temperature"),
        (lambda a, b, y: losses.clip(a, b, negatives="globl"), "Did you mean 'global'"),
        (lambda a, b, y: losses.sup_con(a, y[:2]), "labels"),
        (lambda a, b, y: losses.triplet(a, y, mining="soft"), "semi-hard"),
    ],
)
def test_wrong_inputs_are_told(call, message):
    with pytest.raises(InputError, match=message):
        call(*batch(5, 4))


@pytest.mark.parametrize("name", ["clip", "triplet"])
def test_inside_a_compiled_step(name):
    a, b, labels = batch()
    net = torch.nn.Linear(4, 4, dtype=torch.float64)

    def step(x, y):
        return CASES[name][0](net(x), net(y), labels)

    found = []
    for call in (step, torch.compile(step, backend="eager")):
        for _ in range(2):
            net.zero_grad()
            value = call(a, b)
            value.backward()
            found.append((value.detach(), net.weight.grad.clone()))
    for other in found[1:]:
        assert_close(other, found[0])


@pytest.mark.parametrize("name", ["groco", "nearest", "hydra", "hydra-gated"])
def test_what_is_no_number_stays_none(name):
    """A loss that is finite on NaN hides a broken run."""
    a, b, labels = batch(6, 4)
    for spoilt in (torch.full_like(a, float("nan")), torch.cat([a[:5], a[5:] * float("nan")])):
        if name == "nearest":
            found = both_ways(spoilt, b).loss(lambda s: nearest_rows(s, top_k=2))
        else:
            found = CASES[name][0](spoilt, b, labels)
        assert not found.isfinite()
