"""Heads: shapes, norms, and prototypes that stay on the sphere without gradient."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nearfar import heads
from nearfar.errors import InputError


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_mlp_has_its_layers_and_every_parameter_learns(layers):
    head = heads.mlp(10, 20, 6, layers=layers)
    linears = [part for part in head if isinstance(part, nn.Linear)]
    assert len(linears) == layers
    out = head(torch.randn(8, 10))
    assert out.shape == (8, 6)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_mlp_equals_its_formula():
    head = heads.mlp(4, 5, 3, norm=False)
    x = torch.randn(7, 4)
    expected = (x @ head[0].weight.T + head[0].bias).clamp(min=0) @ head[2].weight.T + head[2].bias
    assert_close(head(x), expected)


def test_last_norm_standardises_each_output_and_no_norm_means_none():
    out = heads.mlp(4, 5, 3, last_norm=True)(torch.randn(200, 4))
    assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert_close(out.std(0, unbiased=False), torch.ones(3), atol=1e-2, rtol=0)
    assert not any(isinstance(part, nn.BatchNorm1d) for part in heads.mlp(4, 5, 3, norm=False))


def test_prototypes_are_unit_and_their_projection_leaves_no_graph():
    prototypes = heads.Prototypes(12, 5)
    assert_close(prototypes.weight.norm(dim=1), torch.ones(12))
    z = torch.randn(3, 5)
    prototypes(z).square().sum().backward()
    before, gradient = prototypes.weight, prototypes.weight.grad.clone()
    with torch.no_grad():
        prototypes.weight.mul_(torch.rand(12, 1) + 0.5)
    prototypes.normalise()
    assert prototypes.weight is before
    assert prototypes.weight.is_leaf
    assert prototypes.weight.requires_grad
    assert_close(prototypes.weight.grad, gradient)
    assert_close(prototypes.weight.norm(dim=1), torch.ones(12))
    assert_close(prototypes(z), torch.stack([torch.stack([row @ c for c in prototypes.weight]) for row in z]))


def test_predictor_keeps_the_dimension_and_wrong_sizes_are_told():
    assert heads.predictor(6, 16)(torch.randn(4, 6)).shape == (4, 6)
    assert heads.linear(6, 2)(torch.randn(4, 6)).shape == (4, 2)
    with pytest.raises(InputError, match="at least 1"):
        heads.mlp(3, 3, 3, layers=0)
    with pytest.raises(InputError, match="from 1 to 65536"):
        heads.Prototypes(0, 3)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_cosine_of_joined_vectors_is_the_weighted_mean(share):
    z, h = (torch.randn(5, d, dtype=torch.float64) * 10 ** torch.arange(5)[:, None] for d in (3, 7))
    made = heads.joined_vectors(z, h, share)
    assert made.shape == (5, 10)
    assert_close(made.norm(dim=1), torch.ones(5, dtype=torch.float64))
    cosines = [torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=2) for x in (z, h)]
    assert_close(made @ made.T, share * cosines[0] + (1 - share) * cosines[1])


def test_an_ensemble_is_stored_and_knows_its_width():
    x = torch.randn(6, 4)
    for first in (heads.linear(4, 3, bias=False), nn.Identity()):
        head = heads.Ensemble(first, heads.mlp(4, 8, 5, layers=3), 0.3).eval()
        described = heads.describe(head)
        assert heads.width(described, 4) == head(x).shape[1] == (3 if isinstance(first, nn.Linear) else 4) + 5
        again = heads.build(described).eval()
        again.load_state_dict(head.state_dict())
        assert_close(again(x), head(x))
        assert set(head.variants()) == {"z", "h"}
    assert heads.width(heads.describe(heads.mlp(4, 8, 5)), 4) == 5
    with pytest.raises(InputError, match="share"):
        heads.Ensemble(nn.Identity(), nn.Identity(), 1.5)
