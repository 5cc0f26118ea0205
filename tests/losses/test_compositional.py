"""NegCLIP's loss: the invariants of its asymmetric score matrix. That it equals its loops stands in `cases`."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from nearfar import losses
from nearfar.errors import InputError


def batch(n=5, m=7, d=4, seed=1):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(k, d, dtype=torch.float64, generator=make) for k in (n, n, m)]


def test_without_hard_texts_it_is_clip():
    image, text, hard = batch()
    plain = losses.clip(image, text, temperature=0.2)
    assert_close(losses.negclip(image, text, temperature=0.2), plain)
    assert_close(losses.negclip(image, text, hard[:0], temperature=0.2), plain)


def test_hard_texts_raise_it_unless_nothing_is_like_them():
    image, text, hard = batch()
    image[:, 0] = image[:, 0].abs() + 1
    plain = losses.negclip(image, text, temperature=0.01)
    assert losses.negclip(image, text, hard, temperature=0.01) > plain
    far = torch.tensor([[-1.0, 0, 0, 0]], dtype=torch.float64).expand(7, 4)
    assert_close(losses.negclip(image, text, far, temperature=0.001), losses.negclip(image, text, temperature=0.001))


def test_order_of_hard_texts_and_of_items_does_not_matter():
    image, text, hard = batch()
    value = losses.negclip(image, text, hard, temperature=0.3)
    assert_close(losses.negclip(image, text, hard.flip(0), temperature=0.3), value)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert_close(losses.negclip(image[order], text[order], hard, temperature=0.3), value)
    assert not torch.isclose(losses.negclip(image, text[order], hard, temperature=0.3), value)


def test_a_hard_text_has_a_gradient_from_the_images_alone():
    image, text, hard = (normalize(x, dim=1) for x in batch())
    hard.requires_grad_()
    losses.negclip(image, text, hard, temperature=0.5).backward()
    scores = image @ torch.cat([text, hard.detach()]).T / 0.5
    share = scores.softmax(1)[:, 5:]
    wanted = share.T @ image / 0.5 / (2 * 5)
    wanted = wanted - (wanted * hard.detach()).sum(1, keepdim=True) * hard.detach()  # through the norm
    assert_close(hard.grad, wanted)


def test_a_copy_of_the_true_text_costs_log_2():
    image, text, _ = batch()
    only = [image[:1], text[:1], text[:1]]
    assert losses.negclip(*only, temperature=0.1).item() == pytest.approx(math.log(2) / 2)
    layout = losses.negclip_layout(image, text, text, temperature=0.1)
    rows = losses.rows.info_nce_rows(layout.parts[0])
    assert (rows >= math.log(2) - 1e-12).all()


def test_one_item():
    image, text, hard = batch(1, 1)
    layout = losses.negclip_layout(image, text, hard, temperature=0.5)
    assert losses.rows.info_nce_rows(layout.parts[1]).item() == 0
    assert layout.parts[0].shape == (1, 2)


def test_wrong_shapes_are_told():
    image, text, hard = batch()
    with pytest.raises(InputError, match="Each image needs a text"):
        losses.negclip(image, text[:4], hard)
    with pytest.raises(InputError, match=r"Hard texts are \(m, 4\)"):
        losses.negclip(image, text, hard[:, :3])


def test_not_contiguous_and_half():
    image, text, hard = batch()
    spread = [torch.stack([x, x], 2)[..., 0] for x in (image, text, hard)]
    value = losses.negclip(image, text, hard, temperature=0.2)
    assert_close(losses.negclip(*spread, temperature=0.2), value)
    found = losses.negclip(image.half(), text.half(), hard.half(), temperature=0.2)
    assert found.item() == pytest.approx(value.item(), abs=2e-2)
