"""Updates in turn: who changes when, one step counted, resumed to the bit, two processes, refusals."""

import dataclasses

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from nearfar.errors import InputError
from nearfar.methods import Loss, Phase
from nearfar.methods.phases import check_phases
from nearfar.training import building, engine
from nearfar.training.settings import TrainSettings
from tests.contract import runs


class Watch(pl.Callback):
    """Calls `watch(method, optimiser)` before every update."""

    def __init__(self, watch):
        self.watch = watch

    def on_before_optimizer_step(self, trainer, method, optimizer):
        self.watch(method, optimizer)


def prepared(table, data=None, **options):
    from nearfar.sources import open_data

    settings = TrainSettings(batch_size=12, steps=6, warmup=0, device="cpu", optimiser="sgd", lr=0.1)
    return building.prepare("toy-phases", open_data(table), settings, options)


def stepped(made, watch):
    """Trains it, calling `watch(step, phase)` around every update of a phase."""
    engine.trainer_for(made, [Watch(watch)], 6).fit(made.method, made.loader)
    return made.method


def test_in_each_phase_only_its_own_parameters_have_a_gradient_and_change(table):
    made = prepared(table, every=2)
    method, seen, before = made.method, [], {}

    def watch(method, optimizer):
        mine = {id(p) for g in optimizer.param_groups for p in g["params"]}
        held = {name for name, p in method.named_parameters() if p.grad is not None}
        assert held == {name for name, p in method.named_parameters() if id(p) in mine}
        changed = {n for n, p in method.named_parameters() if n in before and not torch.equal(before[n], p)}
        seen.append((next(iter(held)).split(".")[0], {n.split(".")[0] for n in changed}))
        before.update({n: p.detach().clone() for n, p in method.named_parameters()})

    stepped(made, watch)
    assert [name for name, _ in seen] == ["tower", "tower", "augment"] * 3
    # between two updates exactly what the first of them updates has changed
    assert [changed for _, changed in seen[1:]] == [{name} for name, _ in seen[:-1]]
    assert method.trainer.global_step == 6, "one step, however many updates"


def test_the_curve_has_the_loss_of_each_update(table):
    terms = stepped(prepared(table, every=1), lambda method, optimizer: None).terms
    assert set(terms) == {"encoder", "augmenter", "size", "loss"}
    assert terms["loss"] == terms["encoder"] > 0 > terms["augmenter"]


def test_a_step_equals_the_one_by_hand(table):
    """SGD with momentum 0.9: encoder by the loss, then the augmenter by its own, its gradient clipped at 0.1."""
    made, again = prepared(table, every=1), prepared(table, every=1)
    for module in (*made.method.modules(), *again.method.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    engine.trainer_for(made, [], 1).fit(made.method, made.loader)
    method, batch = again.method, again.loader.at(0)
    batch.views = method.make_views(batch)
    for parameters, loss, lr, clip in ((method.tower.parameters(), method.near, 0.1, None),
                                       (method.augment.parameters(), method.far, 0.5, 0.1)):  # fmt: skip
        listed = [p for p in parameters if p.requires_grad]
        grads = torch.autograd.grad(loss(batch).total, listed, allow_unused=True)
        norm = torch.sqrt(sum(g.square().sum() for g in grads if g is not None))
        scale = 1.0 if clip is None else min(1.0, clip / (float(norm) + 1e-6))
        with torch.no_grad():
            for p, g in zip(listed, grads, strict=True):
                decay = 0.01 * p if p.dim() > 1 else 0.0
                if g is not None:
                    # timm's "sgd" is Nesterov: the first step moves by (1 + 0.9) times the gradient
                    p -= lr * method.optimisation.factor(0, 6) * _first(method, g * scale + decay)
    for name, p in method.named_parameters():
        torch.testing.assert_close(made.method.state_dict()[name], p.detach(), rtol=1e-5, atol=1e-7)


def _first(method, grad):
    """What the run's SGD makes of the first gradient."""
    p = nn.Parameter(torch.zeros_like(grad))
    o = method.optimisation
    made = o.make([{"params": [p], "lr": 1.0, "weight_decay": 0.0}])
    p.grad = grad.clone()
    made.step()
    return -p.detach()


@pytest.mark.parametrize("at", [3, 5])
def test_a_run_stopped_between_two_updates_of_a_phase_goes_on_to_the_bit(at, table, tmp_path, monkeypatch):
    """The augmenter is updated in steps 2, 5 and 8; checkpoints stand after 2, 4, 6."""
    runs.run("toy-phases", table, tmp_path / "whole")
    runs.stopped("toy-phases", table, tmp_path / "parts", monkeypatch, at)
    assert runs.state(tmp_path / "parts")["global_step"] == at - 1
    runs.run("toy-phases", table, tmp_path / "parts", resume=True)
    runs.same_to_the_bit(tmp_path / "whole", tmp_path / "parts")
    assert [line["step"] for line in runs.lines(tmp_path / "whole") if "augmenter" in line] == [3, 6]
    assert len(runs.state(tmp_path / "whole")["optimizer_states"]) == 2


def test_a_phase_may_take_a_second_step_of_an_earlier_ones_optimiser(table):
    """Adam by hand: the moments of both steps are those of one optimiser, and its clip holds for both."""
    made = prepared(table, again=True, every=1)
    made.method.optimisation = dataclasses.replace(made.method.optimisation, optimiser="adam", clip_norm=0.05)
    grads, before = [], {}
    tower = dict(made.method.tower.named_parameters())

    def watch(method, optimizer):
        if any(p is next(iter(tower.values())) for g in optimizer.param_groups for p in g["params"]):
            before.setdefault("start", {n: p.detach().clone() for n, p in tower.items()})
            grads.append({n: p.grad.detach().clone() for n, p in tower.items() if p.requires_grad})

    engine.trainer_for(made, [Watch(watch)], 1).fit(made.method, made.loader)
    assert len(grads) == 2
    optimisation = dataclasses.replace(made.method.optimisation, clip_norm=None)
    again = {n: nn.Parameter(before["start"][n].clone()) for n in grads[0]}
    by_hand, _ = made.method.optimiser(optimisation, again.values())
    for one in grads:
        norm = torch.sqrt(sum(g.square().sum() for g in one.values()))
        for name, p in again.items():
            p.grad = one[name] * min(1.0, 0.05 / (float(norm) + 1e-6))
        by_hand.step()
    for name, p in again.items():
        torch.testing.assert_close(tower[name].detach(), p.detach(), rtol=1e-5, atol=1e-7)


def test_a_run_with_a_shared_optimiser_goes_on_to_the_bit(table, tmp_path, monkeypatch):
    runs.run("toy-phases", table, tmp_path / "whole", again=True)
    runs.stopped("toy-phases", table, tmp_path / "parts", monkeypatch, 5, again=True)
    runs.run("toy-phases", table, tmp_path / "parts", again=True, resume=True)
    runs.same_to_the_bit(tmp_path / "whole", tmp_path / "parts")
    assert len(runs.state(tmp_path / "whole")["optimizer_states"]) == 2, "the encoder's and the augmenter's"
    assert {"encoder", "again"} <= set(runs.lines(tmp_path / "whole")[-1])


def test_two_processes_equal_one(table, tmp_path, monkeypatch):
    done = runs.on_two_processes("toy-phases", table, tmp_path / "two", **runs.SGD)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    runs.run("toy-phases", table, tmp_path / "one", **runs.SGD)
    runs.close(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    ("option", "says"), [({"accumulate": 2}, "--accumulate"), ({"micro_batch": 4}, "--micro-batch")]
)
def test_what_cannot_work_is_refused_before_anything_is_written(option, says, table, tmp_path):
    with pytest.raises(InputError, match=says):
        runs.run("toy-phases", table, tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()


def test_wrong_phases_are_refused():
    layer = nn.Linear(2, 2)
    with pytest.raises(InputError, match="updates no trained parameter"):
        Phase("a", [layer.requires_grad_(False)], lambda batch: Loss(torch.zeros(())))
    layer.requires_grad_(True)
    with pytest.raises(InputError, match="every 1 or more"):
        Phase("a", [layer], lambda batch: Loss(torch.zeros(())), every=0)
    one = Phase("a", [layer], lambda batch: Loss(torch.zeros(())), every=2)
    with pytest.raises(InputError, match="Two phases bear one name"):
        check_phases([one, one])
    with pytest.raises(InputError, match="every=1"):
        check_phases([one])
    first, other = (Phase(name, [nn.Linear(2, 2)], one.loss) for name in ("first", "other"))
    with pytest.raises(InputError, match="cannot have settings of its own"):
        Phase("a", first.trained, one.loss, shares="first", lr=0.1)
    second = Phase("a", first.trained, one.loss, shares="first")
    check_phases([first, second])
    for wrong in ([second, first], [other, second], [first, Phase("a", other.trained, one.loss, shares="first")]):
        with pytest.raises(InputError, match="no earlier phase of the same parameters"):
            check_phases(wrong)


def test_a_loss_of_a_phase_that_is_not_finite_is_told(table, tmp_path):
    from nearfar.errors import NearfarError

    with pytest.raises(NearfarError, match="not finite at step"):
        runs.run("toy-phases", table, tmp_path / "run", optimiser="sgd", lr=1e30, warmup=0)
