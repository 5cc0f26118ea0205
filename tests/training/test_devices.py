"""Every method, loss and view on a device that is not the processor: nothing is made in the wrong place."""

import math

import numpy as np
import pytest
import torch

from nearfar import methods, similarity
from nearfar.methods.batch import Batch
from nearfar.sources.storage import cache_dir
from nearfar.training import building
from nearfar.training.engine import split_options
from nearfar.views.image import Augment
from tests.elsewhere import away, home, moved, stand_in
from tests.losses.cases import CASES as LOSSES
from tests.losses.cases import batch
from tests.small import encoder_of

OPTIONS = {
    "dcl queue": {"negatives": "queue", "momentum": "auto"},
    "mochi mixing": {"negatives": {"name": "mixing", "size": 48, "start": 0.0}},
    "swav": {"prototypes": 30},
    "sepclr": {"background": "twemoji"},
    "csp": {"untrained": True},
    "coop": {"untrained": True},
    "contriever": {"stream": True, "length": 16},
    "simclr micro-batches": {"micro_batch": 5},
    "simclr siglip": {"loss": "siglip"},
    "simclr mined": {"negatives": "mined"},
    "simclr clusters": {"negatives": "cluster"},
    "simclr memory": {"negatives": "cross-batch"},
    "simclr fnc": {"negatives": "fnc"},
}
NAMES = sorted({*methods.slugs(), *OPTIONS} - {"meow"})  # the stand-in makes no sparse matrices, as its paths are


def test_the_stand_in_refuses_two_devices():
    with stand_in():
        x = torch.zeros(3, device="cuda")
        y = torch.zeros(3)
        for wrong in (lambda: x + y, lambda: torch.cat([y, x]), lambda: x.dot(y)):
            with pytest.raises(RuntimeError, match="two devices"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(x)
        assert x.cpu().numpy().tolist() == (x + 1 - 1).tolist()
        assert x.new_tensor([1.0]).device.type == torch.zeros_like(x).device.type == "cuda"


def summed(method, batch):
    """The losses of all phases."""
    batch.views = method.make_views(batch)
    return sum(phase.loss(batch).total for phase in method.phases())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_trains(name, data_of):
    slug, given = name.split()[0], OPTIONS.get(name, {})
    settings, _, own = split_options(slug, {"steps": 6, "batch_size": 16, **encoder_of(slug), **given}, None, None)
    setup = building.prepare(slug, data_of(slug), settings, own, cache=cache_dir())
    method, batches = setup.method, iter(setup.loader)
    with stand_in() as device:
        moved(method)
        for step in range(2):
            if method.phases():
                loss = summed(method, next(batches).to(device))
            else:
                loss = method.training_step(next(batches).to(device), step)
            method.backward(loss)
            method.before_step()
            for embedded, done in method._pending:
                method.after_step(embedded, Batch.joined([done]))
            assert loss.device == device
            assert math.isfinite(float(loss.detach()))
        assert all(p.grad.device == device for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("engine", ["dense", "streaming"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient(name, engine):
    a, b, labels = batch()

    def found(*inputs):
        x, y = (t.clone().requires_grad_() for t in inputs[:2])
        value = LOSSES[name][0](x, y, inputs[2])
        value.backward()
        return [t.detach().cpu() for t in (value, x.grad, y.grad) if t is not None]

    with similarity.engine(engine, tile=3):
        here = found(a, b, labels)
        with stand_in():
            there = found(away(a), away(b), away(labels))
    for one, two in zip(here, there, strict=True):
        torch.testing.assert_close(two, one)


@pytest.mark.parametrize(
    "augment",
    [
        Augment(size=24, crop=(0.2, 1.0), flip=0.5, rotate=10, zoom=0.2, shift=0.1),
        Augment(size=96, crop=(0.2, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grey=0.2),
        Augment(rotate=10, blur=0.5, solarise=0.5, erase=0.5),
        Augment(flip=0.5),
    ],
)
def test_views_of_images(augment):
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    plain = augment(images, generator)
    with stand_in():
        generator = torch.Generator(device="cuda")
        generator.manual_seed(1)
        there = augment(away(images), generator)
        assert there.device.type == "cuda"
    torch.testing.assert_close(home(there), plain, atol=0.02, rtol=0)  # a processor rounds large crops to uint8
