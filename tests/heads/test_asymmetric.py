"""The head with two sides: statistics of the batch for queries, past ones for keys."""

import pytest
import torch
from torch.nn.functional import relu

from nearfar.errors import InputError
from nearfar.heads import AsymmetricHead


def made(norm="asymmetric"):
    torch.manual_seed(0)
    head = AsymmetricHead(6, 5, 4, norm).double().train()
    torch.nn.init.uniform_(head.norm.weight, 0.5, 1.5)
    torch.nn.init.uniform_(head.norm.bias)
    return head


def by_hand(head, h, mean, var):
    x = h @ head.first.weight.T + head.first.bias
    x = (x - mean) / (var + 1e-5).sqrt() * head.norm.weight + head.norm.bias
    return relu(x) @ head.last.weight.T + head.last.bias


def test_queries_and_keys_in_the_order_of_a_step():
    head, rows = made(), torch.randn(8, 6, dtype=torch.float64)
    mean, var = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    for k in range(3):
        h = rows + k
        x = h @ head.first.weight.T + head.first.bias
        torch.testing.assert_close(head(h, key=True), by_hand(head, h, mean, var))
        torch.testing.assert_close(head(h), by_hand(head, h, x.mean(0), ((x - x.mean(0)) ** 2).mean(0)))
        mean, var = 0.9 * mean + 0.1 * x.mean(0).detach(), 0.9 * var + 0.1 * x.var(0, unbiased=True).detach()
        torch.testing.assert_close(head.norm.running_mean, mean)
        torch.testing.assert_close(head.norm.running_var, var)
    head.eval()
    torch.testing.assert_close(head(rows), by_hand(head, rows, mean, var))


@pytest.mark.parametrize(("norm", "key", "others"), [("asymmetric", True, False), ("asymmetric", False, True),
                                                     ("batch", True, True), ("running", False, False)])  # fmt: skip
def test_whether_a_row_sees_the_others(norm, key, others):
    head, rows = made(norm), torch.randn(6, 6, dtype=torch.float64)
    moved = rows.clone()
    moved[3] += 1
    assert torch.equal(head(rows, key=key)[0], head(moved, key=key)[0]) != others


def test_one_row_has_no_statistics_and_a_constant_feature_is_finite():
    head = made()
    with pytest.raises(InputError, match="no batch statistics"):
        head(torch.randn(1, 6, dtype=torch.float64))
    assert head(torch.randn(1, 6, dtype=torch.float64), key=True).shape == (1, 4)
    assert head(torch.ones(4, 6, dtype=torch.float64)).isfinite().all()
