"""The same values and gradients on a GPU, whatever the engine, the precision of the inputs or autocast."""

import pytest
import torch
from torch.testing import assert_close

from nearfar import losses
from nearfar.similarity import Similarity, engine
from tests.losses.cases import CASES, batch

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

ENGINES = ("auto", "dense", "streaming")
# Rounding to 8 bits may change which candidate is the hardest, and what is above a threshold.
BY_RANK = ("hard_contrastive", "simple-hard", "triplet-semi-hard", "triplet")


def passed(call, a, b, labels):
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    value = call(x, y, labels)
    value.backward()
    return [value.detach(), *(torch.zeros_like(z) if z.grad is None else z.grad for z in (x, y))]


def on_gpu(*tensors):
    return [x.cuda() for x in tensors]


@pytest.mark.parametrize("how", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_every_loss_agrees_with_the_cpu(name, how):
    call, _ = CASES[name]
    a, b, labels = batch(9, 5, seed=2)
    wanted = passed(call, a, b, labels)
    with engine(how, tile=4):
        found = passed(call, *on_gpu(a, b, labels))
    assert all(x.is_cuda for x in found)
    for x, y in zip(found, wanted, strict=True):
        assert_close(x.cpu(), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [300, 3000])
@pytest.mark.parametrize("name", ["clip", "info_nce", "nt_xent", "sup_con"])
def test_many_tiles_in_single_precision(name, rows):
    a, b = batch(rows, 64, seed=1)[:2]
    labels = torch.arange(rows) % 17
    wanted = passed(CASES[name][0], a, b, labels)
    with engine("auto", tile=512):
        found = passed(CASES[name][0], *on_gpu(a.float(), b.float(), labels))
    for x, y in zip(found, wanted, strict=True):
        assert_close(x.cpu().double(), y, rtol=1e-4, atol=1e-4 * y.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [n for n in CASES if n not in BY_RANK])
def test_half_precision_stays_near_its_rounded_inputs(name, dtype):
    call, _ = CASES[name]
    a, b, labels = batch(9, 5, seed=2)
    a, b = a.to(dtype), b.to(dtype)
    wanted = passed(call, a.double(), b.double(), labels)
    found = passed(call, *on_gpu(a, b, labels))
    assert found[1].dtype == dtype
    for x, y in zip(found, wanted, strict=True):
        assert_close(x.cpu().double(), y, rtol=2e-2, atol=2e-2 * y.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_similarity(dtype):
    a, b = on_gpu(*batch(200, 32, seed=3)[:2])
    plain = losses.clip(a.float(), b.float())
    with torch.autocast("cuda", dtype):
        assert_close(losses.clip(a.float(), b.float()), plain, rtol=0, atol=0)


def test_the_same_numbers_twice():
    a, b = (x.to(torch.bfloat16) for x in on_gpu(*batch(3000, 64, seed=4)[:2]))
    once, again = (passed(lambda x, y, _: losses.clip(x, y), a, b, None) for _ in range(2))
    for x, y in zip(once, again, strict=True):
        assert torch.equal(x, y)


def test_neighbours_and_thresholds():
    a, b = batch(500, 16, seed=5, dtype=torch.float32)[:2]
    here, there = Similarity(a, b), Similarity(*on_gpu(a, b))
    for x, y in zip(there.topk(7), here.topk(7), strict=True):
        assert_close(x.cpu(), y)
    assert_close(there.threshold(3).cpu(), here.threshold(3))


@pytest.mark.parametrize("name", ["clip", "nt_xent"])
def test_the_device_is_not_waited_for(name):
    """A number as temperature needs no look at what the device has computed, so that its queue stays full."""
    a, b = on_gpu(*batch(300, 32, seed=7, dtype=torch.float32)[:2])
    passed(CASES[name][0], a, b, None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        passed(CASES[name][0], a, b, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")
