"""CREST's paths and terms against loops from the card, its invariants, and inputs that are hard."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar.errors import InputError
from nearfar.heads.grounding import Grounding
from nearfar.losses import agreed_attributes, attribute_loss, certain_contrast, class_logits, pattern_margin
from nearfar.losses.grounding import attend, recall

Y = torch.tensor([0, 1, 0, 2, 1, 0])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(scores):
    top = max(scores)
    parts = [math.exp(s - top) for s in scores]
    return [p / sum(parts) for p in parts]


def naive_attend(query, key, value):
    found = torch.zeros(len(query), value.shape[1], dtype=torch.float64)
    for i, q in enumerate(query):
        share = softmax([float(q @ k) / len(q) ** 0.5 for k in key])
        for w, v in zip(share, value, strict=True):
            found[i] += w * v
    return found


def naive_contrast(v, y, u, t):
    n, total, anchors = len(v), 0.0, 0

    def s(i, j):
        return sum(float(a @ b / (a.norm() * b.norm())) for a, b in zip(v[i], v[j], strict=True)) / len(v[i]) / t

    for i in range(n):
        positives = [j for j in range(n) if j != i and y[j] == y[i]]
        rivals = [j for j in range(n) if y[j] != y[i]]
        if not positives:
            continue
        anchors += 1
        sure = sum(1 - float(u[j]) for j in rivals)
        w = {j: len(rivals) * (1 - float(u[j])) / sure if sure else 1.0 for j in rivals}
        hard = sum(w[j] * math.exp(s(i, j)) for j in rivals)
        total += sum(-math.log(math.exp(s(i, p)) / (math.exp(s(i, p)) + hard)) for p in positives) / len(positives)
    return total / max(anchors, 1)


def test_attention_and_patterns_by_loops():
    q, k, v = drawn(2, 3, 4), drawn(2, 5, 4, seed=1), drawn(2, 5, 4, seed=2)
    for i in range(2):
        assert_close(attend(q, k, v)[i], naive_attend(q[i], k[i], v[i]))
    rows, bank = drawn(2, 5, 4, seed=3), drawn(6, 4, seed=4)
    found = recall(rows, bank, 3)
    for i in range(2):
        for r in range(5):
            scores = [float(rows[i, r] @ p) for p in bank]
            best = sorted(range(6), key=lambda m: -scores[m])[:3]
            share = softmax([scores[m] for m in best])
            want = rows[i, r] + sum(w * bank[m] for w, m in zip(share, best, strict=True))
            assert_close(found[i, r], want)
    assert_close(recall(rows, bank[:0]), rows)
    assert_close(recall(rows, bank, 99), recall(rows, bank, 6))
    assert gradcheck(lambda a, b: recall(a, b, 3), (rows.requires_grad_(), bank.requires_grad_()))


def test_both_paths_from_the_card():
    torch.manual_seed(0)
    words, regions = drawn(5, 6), drawn(3, 7, 4, seed=1)
    m = Grounding(words, 4, dim=8, patterns=5, kept=2).double()
    made = m(regions)
    m.requires_grad_(False)
    for i in range(3):
        x = regions[i]
        v = naive_attend(words @ m.visual.query.weight.T, x @ m.visual.key.weight.T, x @ m.visual.value.weight.T)
        assert_close(made.seen[i], v)
        s = words @ m.visual_words.weight.T
        assert made.psi[0][i].tolist() == pytest.approx([float(s[k] @ v[k]) for k in range(5)])
        t = naive_attend(x @ m.attribute.query.weight.T, words @ m.attribute.key.weight.T,
                         words @ m.attribute.value.weight.T)  # fmt: skip
        assert_close(made.read[i], t)
        h = recall(t[None], m.patterns, 2)[0]
        s = words @ m.attribute_words.weight.T
        want = [sum(float(s[k] @ row) for row in h) / 7 for k in range(5)]
        assert made.psi[1][i].tolist() == pytest.approx(want)
    assert not torch.equal(m.visual.query.weight[:, :4], m.attribute.query.weight), "each path asks by its own map"


def test_regions_and_attributes_may_stand_in_any_order():
    torch.manual_seed(0)
    words, regions, z = drawn(5, 6), drawn(3, 7, 4, seed=1), drawn(4, 5, seed=2)
    m = Grounding(words, 4, dim=8, patterns=5, kept=2).double()
    made, order, turned = m(regions), torch.randperm(5), torch.randperm(7)
    for a, b in zip(m(regions[:, turned]).psi, made.psi, strict=True):
        assert_close(a, b)
    m.words = words[order]
    for a, b in zip(m(regions).psi, made.psi, strict=True):
        assert_close(a, b[:, order])
        assert_close(class_logits(a, z[:, order]), class_logits(b, z))
    alone = m(regions[:1])
    assert_close(alone.psi[0], m(regions).psi[0][:1])
    one = Grounding(words, 4, dim=8, paths="pooled").double()
    assert_close(one(regions).psi[0], regions.mean(1) @ one.pooled.weight.T + one.pooled.bias)
    assert [len(Grounding(words, 4, dim=8, paths=p).double()(regions).psi) for p in ("visual", "attribute")] == [1, 1]


def test_scores_of_classes():
    psi, z = drawn(3, 5), drawn(4, 5, seed=1)
    want = [[2.0 * float(p @ c / c.norm()) for c in z] for p in psi]
    assert class_logits(psi, z, 2.0).tolist() == [pytest.approx(row) for row in want]
    assert_close(class_logits(psi, 7 * z), class_logits(psi, z))
    assert class_logits(psi, torch.zeros(1, 5)).tolist() == [[0]] * 3


def test_the_contrast_by_a_loop():
    v, u = drawn(6, 3, 4), torch.rand(6, dtype=torch.float64)
    want = naive_contrast(v, Y.tolist(), u, 0.3)
    assert certain_contrast(v, Y, u, temperature=0.3).item() == pytest.approx(want, rel=1e-9)
    plain = naive_contrast(v, Y.tolist(), [0.0] * 6, 0.3)
    for same in (None, torch.full((6,), 0.4), torch.ones(6)):
        assert certain_contrast(v, Y, same, temperature=0.3).item() == pytest.approx(plain, rel=1e-6)
    turn = torch.linalg.qr(drawn(4, 4, seed=3))[0]
    assert certain_contrast(3 * v @ turn, Y, u, temperature=0.3).item() == pytest.approx(want, rel=1e-9)
    assert gradcheck(lambda x: certain_contrast(x, Y, u), v.requires_grad_())
    unsure = u.clone().requires_grad_()
    certain_contrast(v, Y, unsure).backward()
    assert unsure.grad is None, "weights are constants"
    doubtful = u.clone()
    doubtful[3] = 1.0
    assert certain_contrast(v, Y, doubtful).isfinite()


def test_the_contrast_of_hard_inputs():
    for n, y in ((1, [0]), (4, [0, 1, 2, 3]), (4, [0, 0, 0, 0])):
        v = drawn(n, 3, 4).requires_grad_()
        loss = certain_contrast(v, torch.tensor(y), torch.rand(n))
        loss.backward()
        assert loss.item() == 0
        assert v.grad.isfinite().all()
    for dtype in (torch.float16, torch.bfloat16):
        v = drawn(6, 3, 8).to(dtype).requires_grad_()
        loss = certain_contrast(v, Y, torch.rand(6).to(dtype), temperature=0.01)
        loss.backward()
        assert loss.isfinite()
        assert v.grad.isfinite().all()
    zero = torch.zeros(6, 3, 4, requires_grad=True)
    loss = certain_contrast(zero, Y, temperature=1e-4)
    loss.backward()
    assert loss.isfinite()
    assert zero.grad.isfinite().all()
    v = drawn(6, 4, 3).transpose(1, 2)
    assert_close(certain_contrast(v, Y), certain_contrast(v.contiguous(), Y))
    with pytest.raises(InputError, match="temperature"):
        certain_contrast(v, Y, temperature=0.0)


def test_patterns_stay_apart():
    rows, bank = drawn(2, 3, 4), drawn(5, 4, seed=1)
    total = 0.0
    for t in rows.flatten(0, 1):
        order = sorted(range(5), key=lambda m: -float(t @ bank[m]))
        near, far = (float(((t - bank[m]) ** 2).sum()) for m in order[:2])
        total += max(near - far + 1.5, 0) + 0.2 * near
    assert pattern_margin(rows, bank, margin=1.5, commitment=0.2).item() == pytest.approx(total / 6)
    bank = bank.requires_grad_()
    pattern_margin(rows.requires_grad_(), bank).backward()
    assert bank.grad is None
    assert rows.grad is not None
    far = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert pattern_margin(far[None], far).item() == 0, "each row its best pattern, the other at 8"
    assert pattern_margin(rows, bank[:0]).item() == 0
    alone = pattern_margin(rows, bank[:1], commitment=0.1).item()
    assert alone == pytest.approx(0.1 * float(((rows - bank[0]) ** 2).sum(-1).mean()))
    assert gradcheck(lambda x: pattern_margin(x, bank.detach()), rows)
    assert pattern_margin(rows.detach().half(), bank.detach().half()).dtype == torch.float32


def test_attributes_agree_by_certainty():
    a, b, z = drawn(4, 3), drawn(4, 3, seed=1), drawn(5, 3, seed=2)
    u, v, y = torch.rand(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64), torch.tensor([0, 3, 3, 4])
    found = agreed_attributes(a, b, u, v)
    for i in range(4):
        p, q = 1 - float(u[i]), 1 - float(v[i])
        assert found[i].tolist() == pytest.approx(
            [(p * float(x) + q * float(w)) / (p + q) for x, w in zip(a[i], b[i], strict=True)]
        )
    want = sum((float(found[i, k]) - float(z[y[i], k])) ** 2 for i in range(4) for k in range(3)) / 12
    assert attribute_loss(found, z, y).item() == pytest.approx(want)
    assert attribute_loss(z[y], z, y).item() == 0
    nothing = torch.ones(4, dtype=torch.float64, requires_grad=True)
    assert_close(agreed_attributes(a, b, nothing, nothing), (a + b) / 2)
    agreed_attributes(a, b, nothing, nothing).sum().backward()
    assert nothing.grad.isfinite().all()
    assert_close(agreed_attributes(a, b), (a + b) / 2)
    assert_close(agreed_attributes(a, b, u, torch.ones(4)), a)
    assert gradcheck(agreed_attributes, tuple(x.requires_grad_() for x in (a, b, u, v)))
    with pytest.raises(InputError, match="3 attributes, classes 2"):
        attribute_loss(a, z[:, :2], y)
