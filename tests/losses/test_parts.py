"""Losses as parts of a method: each is its row function under any layout, and several positives come from labels."""

import json
import math
import pickle
import sys
import types

import pytest
import torch
from torch.testing import assert_close

from nearfar import losses, options
from nearfar.errors import InputError
from nearfar.losses import parts as loss_parts
from nearfar.losses import rows
from nearfar.losses.parts import RowLoss, build, parts
from nearfar.methods.documentation import arguments
from nearfar.similarity import Block, ExcludedPairs, all_views, both_ways, one_way
from nearfar.training.engine import fit
from tests.losses.cases import batch


def layout(part, a, b, labels=None, **more):
    extra_positives = None if labels is None else ExcludedPairs([(labels, labels)])
    return all_views([a, b], temperature=0.3 if part.tempered else 1.0, extra_positives=extra_positives, **more)


@pytest.mark.parametrize("name", [name for name, part in parts.items() if not part.graded])
def test_every_part_works_with_views_directions_and_a_memory(name):
    part = parts[name]()
    a, b, labels = batch(6, 5, seed=1)
    memory = Block(torch.randn(4, 5, dtype=torch.float64), gradient=False)
    extra_positives = ExcludedPairs([(labels, labels)]) if part.positives else None
    t = {"temperature": 0.3 if part.tempered else 1.0, "extra_positives": extra_positives}
    a.requires_grad_()
    for made in (
        all_views([a, b], **t),
        both_ways(a, b, **t),
        one_way(a, b, extra_candidates=[memory], **t),
        all_views([a, b, a + b], targets=2, **t),
    ):
        value = made.loss(part)
        assert value.isfinite()
        assert torch.autograd.grad(value, a)[0].norm() > 0
        if part.bounded_below:
            assert value >= 0


def test_parts_are_the_named_losses():
    a, b, labels = batch(6, 5, seed=2)
    z, both = torch.cat([a, b]), torch.cat([labels, labels])
    for name, door in (("supcon", losses.sup_con), ("milnce", losses.mil_nce)):
        part = parts[name]()
        assert_close(layout(part, a, b, labels).loss(part), door(z, both, temperature=0.3))
    alone = torch.arange(6)
    part = parts["supcon"]()
    assert_close(layout(part, a, b, alone).loss(part), losses.nt_xent(a, b, temperature=0.3))
    assert_close(layout(part, a, b).loss(part), losses.nt_xent(a, b, temperature=0.3))
    for mining in ("hard", "semi-hard"):
        part = parts["triplet"](mining=mining, positives="auto")
        assert_close(layout(part, a, b, labels).loss(part), losses.triplet(z, both, mining=mining))
    assert_close(both_ways(a, b).loss(parts["simple"](alpha=0.4)), losses.simple(a, b, alpha=0.4))
    assert_close(one_way(a, b).loss(parts["cacr"](tau_neg=1.5)), losses.cacr([a, b], tau_neg=1.5))


def test_friends_win_over_hidden_and_unknown_labels_are_alone():
    a, b, _ = batch(6, 5, seed=3)
    labels, twins = torch.tensor([0, 0, 1, 1, -1, -1]), torch.tensor([5, 5, 6, 6, 7, 7])
    s = all_views(
        [a, b], extra_positives=ExcludedPairs([(labels, labels)]), excluded=ExcludedPairs([(twins, twins)])
    ).parts[0]
    related, seen = s.mask(s.positive & ~s.itself), s.mask(s.negative)
    assert related.sum(1).tolist() == [3, 3, 3, 3, 1, 1] * 2  # a row of 12: the other view, and the friend's two
    assert seen.sum(1).tolist() == [8] * 12  # the hidden twin is a negative of nobody
    a, b = a[:4], b[:4]
    pairs = one_way(a, b, extra_positives=ExcludedPairs([(labels[:4], labels[:4])])).parts[0]
    assert pairs.mask(pairs.positive).sum(1).tolist() == [2, 2, 2, 2]


def test_hardest_negatives_are_taken_from_all_blocks():
    a, b, _ = batch(6, 5, seed=4)
    memory = torch.randn(5, 5, dtype=torch.float64)
    s = one_way(a, b, temperature=0.2, extra_candidates=[Block(memory)]).parts[0]
    whole = one_way(a, torch.cat([b, memory]), temperature=0.2).parts[0]
    for alpha in (0.1, 0.35, 1.0):
        assert_close(rows.hard_rows(s, alpha=alpha), rows.hard_rows(whole, alpha=alpha))
        kept = s.mask(rows.hardest(s, alpha)).sum(1)
        assert kept.tolist() == [max(1, math.floor(alpha * 10 + 0.5))] * 6


def test_siglip_starts_at_the_size_of_the_batch_and_remembers_it():
    a, b, _ = batch(8, 5, seed=5)
    part = parts["siglip"]()
    made = one_way(a, b, temperature=0.1)
    assert_close(made.loss(part).double(), losses.siglip(a, b, bias=-math.log(8)), rtol=1e-6, atol=1e-6)
    made.loss(part).backward()
    assert part.bias.grad.abs() > 0
    again = parts["siglip"]()
    again.load_state_dict(part.state_dict())
    one_way(a[:3], b[:3], temperature=0.1).loss(again)
    assert again.bias.item() == pytest.approx(-math.log(8))
    assert parts["siglip"](bias=-10)(made.parts[0]).mean() > 0
    at_the_papers_batch = -math.log(32768)
    assert at_the_papers_batch == pytest.approx(-10, abs=0.5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hard", {"alpha": 0.0}),
        ("simple", {"alpha": 1.5}),
        ("dcl", {"sigma": -1.0}),
        ("smoothed", {"smoothing": 2.0}),
        ("hcl", {"tau_plus": 1.0}),
        ("hcl", {"beta": -1.0}),
    ],
)
def test_options_out_of_range_are_refused(name, options):
    with pytest.raises(InputError, match=next(iter(options))):
        parts[name](**options)


@pytest.mark.parametrize("name", [name for name, part in parts.items() if part.graded])
def test_losses_of_scores_say_that_they_are_none_of_a_similarity(name):
    a, b, labels = batch(6, 5, seed=1)
    part, score = parts[name](), labels * 0.3
    door = getattr(losses, name.replace("-", "_"))
    more = {"temperature": 0.2} if part.tempered else {}
    assert_close(part.of_pairs(a, b, score, torch.tensor(0.2)), door(a, b, score, **more))
    with pytest.raises(TypeError, match="one similarity"):
        one_way(a, b).loss(part)


def test_scores_that_order_nothing_or_are_none():
    a, b, _ = batch(6, 5, seed=1)
    assert losses.cosent(a, b, torch.full((6,), 2.0)).item() == 0
    collapsed = torch.ones(6, 5)
    unequal = 6 * 5 / 2
    assert losses.cosent(collapsed, collapsed, torch.arange(6.0)).item() == pytest.approx(math.log(1 + unequal))
    assert losses.cosine_regression(a, a, torch.ones(6)).item() == pytest.approx(0, abs=1e-12)
    for bad in (torch.tensor([0, 1, 2, 3, 4, float("nan")]), torch.zeros(5)):
        with pytest.raises(InputError, match="score"):
            losses.cosent(a, b, bad)
    with pytest.raises(InputError, match="temperature"):
        losses.cosent(a, b, torch.zeros(6), temperature=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b, labels: losses.sup_con(a, labels),
        lambda a, b, labels: losses.mil_nce(a, labels),
        lambda a, b, labels: losses.triplet(a, labels),
        lambda a, b, labels: losses.soft_nearest_neighbour(a, labels),
        lambda a, b, labels: losses.cwcl(a, b, excluded=ExcludedPairs([(labels, labels)])),
        lambda a, b, labels: all_views([a, b], extra_positives=ExcludedPairs([(labels, labels)])),
    ],
)
def test_values_below_minus_one_are_refused(call):
    """A signed hash as a label would be half unknown: 3 of 6 items without positives, silently."""
    a, b, _ = batch(6, 5)
    hashes = torch.tensor([-7, 5, -7, 5, 2**40, -(2**40)])
    with pytest.raises(InputError, match="-1 where unknown"):
        call(a, b, hashes)
    call(a, b, torch.tensor([-1, 5, 5, -1, 2, 2]))


def test_a_row_function_becomes_a_part(emoji_few, tmp_path):
    """One decorator: options with ranges and descriptions, a name on the command line, training and resuming."""
    given = {"steps": 2, "batch_size": 8, "val_every": 0, "progress": False, "out": tmp_path / "run"}
    try:
        module = sys.modules["own_rows"] = types.ModuleType("own_rows")
        exec(OWN, vars(module))
        part = parts["scaledrows"]
        assert options.signature(part) == {"share": (float, 0.5), "power": (int, 1)}
        assert arguments(part) == {"share": "factor", "power": "exponent"}
        assert part(0.25).share == part(share=0.25).share == 0.25
        assert (part().bounded_below, part().tempered) == (False, True)
        a, b, _ = batch(6, 5, seed=1)
        s = one_way(a, b, temperature=0.3)
        assert_close(s.loss(part(0.25)), 0.25 * s.loss(rows.info_nce_rows))
        assert pickle.loads(pickle.dumps(part(0.25))).share == 0.25
        for wrong, says in ((({"share": 2.0}), r"'share' must be a number in \[0, 1\]"), ({"shre": 1}, "shre")):
            with pytest.raises((InputError, TypeError), match=says):
                part(**wrong)
        fit("simclr", emoji_few, loss={"name": "scaledrows", "share": 0.25}, **given)
        stored = json.loads((tmp_path / "run" / "config.json").read_text())["options"]["loss"]
        assert stored == {"name": "own_rows.ScaledRows", "share": 0.25, "power": 1}
        fit("simclr", emoji_few, loss=module.ScaledRows(0.25), resume=True, **given)
    finally:
        parts.pop("scaledrows", None)
        sys.modules.pop("own_rows", None)


OWN = '''
from nearfar.checks import UnitInterval
from nearfar.losses.parts import row_loss
from nearfar.losses.rows import info_nce_rows

@row_loss("ScaledRows", bounded_below=False)
def scaled_rows(s, *, share: UnitInterval = 0.5, power: int = 1):
    """InfoNCE, scaled.

    Args: share: factor; power: exponent.
    """
    return share**power * info_nce_rows(s)
'''


def test_built_in_parts_are_found_by_their_names():
    for name in ("InfoNCE", "Smoothed", "DCL", "HCL", "Debiased", "Hard", "Simple", "CACR"):
        assert getattr(loss_parts, name) is parts[name.lower()]
    assert not hasattr(loss_parts, "Nope")
    assert isinstance(loss_parts.HCL(0.2, beta=0.5), RowLoss)


def test_a_part_is_built_by_its_name():
    assert build("hcl", beta=0.5).beta == 0.5
    with pytest.raises(InputError, match=r"no loss 'hlc'\. Did you mean 'hcl'"):
        build("hlc")
    with pytest.raises(InputError, match=r"no option 'bta'\. Did you mean 'beta'"):
        build("hcl", bta=1.0)
