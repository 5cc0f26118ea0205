"""CCP's loss and the masked-LM term against loops in float64, and what must hold of them."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import normalize

from nearfar.errors import InputError
from nearfar.losses import ccp, context_layout, info_nce, mask_tokens, masked_lm, masked_lm_rows
from nearfar.losses.rows import info_nce_rows

LANGUAGES, BANK = torch.tensor([0, 1, 0, 2, 1, 0]), torch.tensor([0, 0, 1, 0, 1, -1, 0])


def scene(n=6, m=7, d=5, seed=0):
    make = torch.Generator().manual_seed(seed)
    sides = [torch.randn(n, d, generator=make, dtype=torch.float64) for _ in range(4)]
    return sides[:2], sides[2:], torch.randn(m, d, generator=make, dtype=torch.float64)


def naive(queries, keys, bank, languages=LANGUAGES, bank_languages=BANK, t=0.1, in_batch=False):
    q, k, bank = ([normalize(x, dim=1) for x in xs] for xs in (queries, keys, [bank]))
    total, counted = 0.0, 0
    for side in (0, 1):
        for i in range(len(q[0])):
            positive = q[side][i] @ k[1 - side][i] / t
            others = [bank[0][j] for j in range(len(bank[0])) if bank_languages[j] == languages[i]]
            if in_batch:
                others += [k[1 - side][j] for j in range(len(q[0])) if j != i and languages[j] == languages[i]]
            below = positive.exp() + sum(((q[side][i] @ n / t).exp() for n in others), start=torch.zeros(()))
            total = total + below.log() - positive
            counted += len(others) > 0
    return total / max(counted, 1)


def call(queries, keys, bank, languages=LANGUAGES, bank_languages=BANK, t=0.1, **more):
    return ccp(queries, keys, bank, languages=languages, bank_languages=bank_languages, temperature=t, **more)


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("t", [0.05, 0.5])
def test_it_is_the_mean_over_both_directions_among_ones_own_bank(in_batch, t):
    args = scene()
    torch.testing.assert_close(call(*args, t=t, in_batch=in_batch), naive(*args, t=t, in_batch=in_batch))


def test_gradients():
    queries, keys, bank = scene()
    leaves = [x.requires_grad_() for x in (*queries, *keys)]
    assert gradcheck(lambda a, b, c, d: call([a, b], [c, d], bank, t=0.4), leaves)
    call(queries, keys, bank.requires_grad_(), detach_keys=True).backward()
    assert all(k.grad is None for k in keys)
    assert bank.grad is None
    assert all(q.grad.abs().sum() > 0 for q in queries)


def test_banks_of_other_languages_do_not_count():
    queries, keys, bank = scene()
    first = [[x[:1] for x in queries], [x[:1] for x in keys]]  # of language 0
    found = call(*first, bank, languages=LANGUAGES[:1])
    moved = torch.where(BANK[:, None] == 0, bank, bank + 3)
    torch.testing.assert_close(found, call(*first, moved, languages=LANGUAGES[:1]))
    assert not torch.allclose(found, call(*first, bank + 3, languages=LANGUAGES[:1]))


def test_limits():
    queries, keys, bank = scene()
    assert call(queries, keys, bank[:0], bank_languages=BANK[:0]).item() == 0
    assert call(queries, keys, bank, languages=torch.full((6,), 7)).item() == 0
    eye = torch.eye(9, dtype=torch.float64)
    rows, count = eye[:1], 7
    found = call([rows, rows], [eye[1:2], eye[1:2]], eye[2:], torch.zeros(1).long(), torch.zeros(count).long())
    assert found.item() == pytest.approx(math.log(1 + count))
    swapped = call(queries[::-1], keys[::-1], bank)
    torch.testing.assert_close(call(queries, keys, bank), swapped)


def test_a_row_without_a_negative_does_not_count():
    queries, keys, bank = scene()
    held = LANGUAGES != 2  # whose bank is empty
    assert not held.all()
    some = [x[held] for x in queries], [x[held] for x in keys]
    found = call(queries, keys, bank)
    torch.testing.assert_close(found, call(*some, bank, languages=LANGUAGES[held]))
    torch.testing.assert_close(found, naive(queries, keys, bank))
    leaves = [x.requires_grad_() for x in queries]
    call(queries, keys, bank).backward()
    assert all((x.grad[~held] == 0).all() and (x.grad[held] != 0).any(1).all() for x in leaves)


def test_shapes_that_do_not_fit_are_refused():
    queries, keys, bank = scene()
    short = [queries[0][:5], queries[1]]
    for args in ((short, keys), ([*queries, queries[0]], [*keys, keys[0]]), (queries[:1], keys), ([], keys),
                 ([x[0] for x in queries], [x[0] for x in keys])):  # fmt: skip
        with pytest.raises(InputError, match=r"two sides each, all of them \(n, d\)\. Got queries \["):
            call(*args, bank)
    for more in ({"languages": LANGUAGES[:5]}, {"bank_languages": BANK[:5]}):
        with pytest.raises(InputError, match=r"go with languages \(6,\), a bank \(7, 5\)"):
            call(queries, keys, bank, **more)
    with pytest.raises(InputError, match=r"Got \(6,\), \(7, 4\) and \(7,\)"):
        call(queries, keys, bank[:, :4])


def test_with_one_language_it_is_moco_without_momentum():
    queries, keys, bank = scene()
    one = torch.zeros(6).long(), torch.zeros(7).long()
    wanted = [info_nce(q[i : i + 1], torch.cat([k[i : i + 1], bank]), temperature=0.1)
              for q, k in zip(queries, keys[::-1], strict=True) for i in range(6)]  # fmt: skip
    torch.testing.assert_close(call(queries, keys, bank, *one), torch.stack(wanted).mean())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_small_temperature_and_zero_rows(kind):
    queries, keys, bank = ([x.to(kind) for x in xs] for xs in (*scene()[:2], [scene()[2]]))
    queries[0][2] = 0
    found = call(queries, keys, bank[0], t=0.005)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), naive(*[[x.double() for x in xs] for xs in (queries, keys)],
                                                     bank[0].double(), t=0.005), rtol=1e-3, atol=1e-3)  # fmt: skip


def test_any_row_loss_fits_the_layout():
    queries, keys, _ = scene()
    by_row = context_layout([x.T.contiguous().T for x in queries], keys, temperature=0.1, in_batch=True)
    wanted = sum(info_nce(q, k, temperature=0.1) for q, k in zip(queries, keys[::-1], strict=True)) / 2
    torch.testing.assert_close(by_row.loss(info_nce_rows), wanted)


def test_tokens_are_hidden_as_bert_hides_them():
    ids = torch.randint(5, 100, (200, 50), generator=torch.Generator().manual_seed(0))
    ordinary = torch.ones_like(ids, dtype=torch.bool)
    ordinary[:, 0] = ordinary[:, 40:] = False
    make = torch.Generator().manual_seed(1)
    hidden, targets = mask_tokens(ids, ordinary, mask_id=4, size=1000, share=0.3, generator=make)
    chosen = targets != -100
    assert not chosen[~ordinary].any()
    assert (targets[chosen] == ids[chosen]).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert chosen[ordinary].float().mean().item() == pytest.approx(0.3, abs=0.02)
    masked, kept = hidden[chosen] == 4, hidden[chosen] == ids[chosen]
    assert masked.float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert kept.float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert (hidden[chosen][~masked & ~kept] > 99).float().mean() > 0.8, "random ones are of the whole vocabulary"
    assert not mask_tokens(ids, ordinary, mask_id=4, size=1000, share=0.0, generator=make)[1].ge(0).any()


def test_the_masked_lm_term():
    make = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 9, generator=make, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, -100, 0, 8, -100])
    wanted = torch.stack([logits[i].exp().sum().log() - logits[i, targets[i]] for i in (0, 2, 3)]).mean()
    torch.testing.assert_close(masked_lm(logits, targets), wanted)
    assert gradcheck(lambda x: masked_lm(x, targets), [logits])
    assert masked_lm(logits, torch.full((5,), -100)).item() == 0
    assert masked_lm(logits[:0], targets[:0]).item() == 0
    assert masked_lm(torch.zeros(4, 7), torch.arange(4)).item() == pytest.approx(math.log(7))
    assert masked_lm_rows(logits.half(), targets).dtype == torch.float32
