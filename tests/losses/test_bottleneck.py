"""The information of gates against loops, and what the card of CVIB says of it and of its contrast."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from nearfar import losses
from nearfar.encoders.inserted import Gate
from nearfar.errors import InputError


def gate(d=5, seed=0):
    make = torch.Generator().manual_seed(seed)
    return torch.randn(2, d, dtype=torch.float64, generator=make).unbind()


def test_the_information_is_its_equation():
    mu, logvar = gate()
    total = sum(math.log(1 + float(m) ** 2 / (math.exp(float(v)) + 1e-8)) for m, v in zip(mu, logvar, strict=True))
    assert losses.gate_kl(mu, logvar, 7).item() == pytest.approx(0.5 * 7 * total)
    assert losses.gate_kl(mu * 0, logvar, 7) == 0
    assert (losses.gate_kl(mu, logvar) > 0).item()
    assert losses.gate_kl(mu, logvar, 0) == 0


def test_it_rises_with_the_mean_and_falls_with_the_noise():
    """Invariant 2; its gradient is T mu / (sigma^2 + mu^2)."""
    mu, logvar = gate()
    assert losses.gate_kl(1.1 * mu, logvar) > losses.gate_kl(mu, logvar) > losses.gate_kl(mu, logvar + 0.1)
    mu, logvar = mu.requires_grad_(), logvar.requires_grad_()
    losses.gate_kl(mu, logvar, 3).backward()
    assert_close(mu.grad, 3 * mu.detach() / (logvar.exp() + mu**2 + 1e-8).detach())
    assert gradcheck(lambda m, v: losses.gate_kl(m, v, 3), (mu, logvar))


def test_extremes_and_shapes():
    mu = torch.tensor([1e3, -1e-20, 0.0], requires_grad=True)
    value = losses.gate_kl(mu, torch.tensor([-80.0, 80.0, -80.0]), 512)
    value.backward()
    assert value.isfinite()
    assert mu.grad.isfinite().all()
    for wrong in ((torch.ones(2, 2), torch.ones(2, 2), 1), (torch.ones(2), torch.ones(3), 1),
                  (torch.ones(2), torch.ones(2), -1)):  # fmt: skip
        with pytest.raises(InputError, match="mean and a log-variance"):
            losses.gate_kl(*wrong)


def test_a_fresh_gate_begins_near_four_and_a_half_a_channel():
    torch.manual_seed(0)
    made = Gate(2000)
    assert losses.gate_kl(made.mu, made.logvar).item() / 2000 == pytest.approx(4.5, abs=0.01)  # log(1 + e^9) / 2


def test_the_contrast_of_two_networks():
    """Invariant 4: scale of either side, log n where candidates are parallel, not symmetric; 0 for one row."""
    a, b = (x.reshape(5, 4) for x in gate(20))
    value = losses.info_nce(a, b, temperature=0.05)
    assert_close(losses.info_nce(3 * a, b * torch.rand(5, 1), temperature=0.05), value)
    assert losses.info_nce(a, b[:1].expand(5, 4), temperature=0.05).item() == pytest.approx(math.log(5))
    assert (losses.info_nce(b, a, temperature=0.05) - value).abs() > 1e-3
    assert losses.info_nce(a[:1], b[:1], temperature=0.05) == 0


def test_half_precision_is_computed_in_single():
    made = Gate(768).half()
    value = losses.gate_kl(made.mu, made.logvar, 128)
    assert value.item() == pytest.approx(losses.gate_kl(made.mu.double(), made.logvar.double(), 128).item(), rel=1e-5)
