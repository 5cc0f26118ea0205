"""Blocks that are computed again in the backward pass: the gradients are those of the plain pass, to the bit."""

import copy

import pytest
import torch

from nearfar import encoders
from nearfar.cli import main
from nearfar.encoders.histories import HistoryEncoder
from nearfar.encoders.two_towers import HALF, HubImage
from nearfar.errors import InputError
from nearfar.training.shaping import moves_twice
from tests.encoders.transformer_folder import TEXTS, write_bert

ITEMS = [["i1", "i2", "i3"], ["i4"], ["i2", "i0", "i5", "i1"]]


def vit():
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    model = ViTModel(ViTConfig(image_size=16, patch_size=8, hidden_dropout_prob=0.2, **sizes), add_pooling_layer=False)
    return HubImage(model, HALF, HALF)


def bert(folder):
    return encoders.text(str(write_bert(folder / "bert", dropout=0.2)))


def openclip_text():
    open_clip = pytest.importorskip("open_clip")
    from nearfar.encoders.openclip import OpenClipText

    size = {"layers": 2, "width": 16, "heads": 2}
    said = {"embed_dim": 12, "text_cfg": {"context_length": 16, "vocab_size": 49408, **size},
            "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 16, "head_width": 8}}  # fmt: skip
    return OpenClipText(open_clip.CLIP(**said), open_clip.SimpleTokenizer(context_length=16), {"model_cfg": said})


MADE = {
    "tiny": (lambda folder: encoders.text("tiny", texts=TEXTS * 9, vocabulary=60, dropout=0.2), TEXTS, "stack.0.out"),
    "bert": (bert, TEXTS, "model.encoder.layer.0.output.dense"),
    "histories": (lambda folder: HistoryEncoder([f"i{k}" for k in range(6)], dim=8), ITEMS, "stack.0.out"),
    "vit of transformers": (lambda folder: vit(), None, None),
    "vit of timm": (lambda folder: encoders.image("test_vit", size=32), None, "model.blocks.0.mlp.fc1"),
    "open_clip": (lambda folder: openclip_text(), TEXTS, "model.transformer.resblocks.0.mlp.c_fc"),
}


def passed(encoder, given, inside):
    """Vectors, gradients and how often a layer within a block was computed."""
    torch.manual_seed(3)
    calls, place = [], encoder.get_submodule(inside)
    hook = place.register_forward_hook(lambda *_: calls.append(1))
    out = encoder.train()(given)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    hook.remove()
    return out.detach(), {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}, len(calls)


@pytest.mark.parametrize("name", MADE)
def test_the_gradients_are_those_of_the_plain_pass(name, tmp_path):
    torch.manual_seed(0)
    make, items, inside = MADE[name]
    encoder = make(tmp_path)
    given = torch.rand(3, 3, encoder.size, encoder.size) if items is None else encoder.prepare(items)
    inside = inside or next(n for n, m in encoder.named_modules() if isinstance(m, torch.nn.Linear) and ".0." in n)
    again = copy.deepcopy(encoder)
    assert again.recompute()
    assert again.recomputed
    plain, twice = passed(encoder, given, inside), passed(again, given, inside)
    assert (plain[2], twice[2]) == (1, 2)
    assert torch.equal(plain[0], twice[0])
    assert plain[1].keys() == twice[1].keys()
    assert all(torch.equal(g, twice[1][n]) for n, g in plain[1].items())
    with torch.no_grad():
        assert torch.equal(again.eval()(given), encoder.eval()(given))


def test_states_of_several_layers_too(tmp_path):
    torch.manual_seed(0)
    plain = bert(tmp_path)
    plain.pool_layers(2, "concat")
    again = copy.deepcopy(plain)
    again.recompute()
    a, b = (passed(one, plain.prepare(TEXTS), "model.encoder.layer.0.output.dense") for one in (plain, again))
    assert torch.equal(a[0], b[0])
    assert all(torch.equal(g, b[1][n]) for n, g in a[1].items())


def test_what_cannot_is_told(tmp_path):
    assert not encoders.image("small").recompute()
    assert moves_twice(encoders.image("test_resnet", size=32))
    routed = encoders.text("tiny", texts=TEXTS * 9, vocabulary=60)
    routed.recompute()
    with pytest.raises(InputError, match="Experts are told of each pass"):
        routed.add_experts(2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["simclr", "emoji"],
            "the image encoder 'small' cannot be computed again: its batch norms would count every "
            "batch twice. Leave it out, take a transformer",
        ),
        (["simclr", "emoji", "--freeze"], "--gradient-checkpointing saves memory of encoders that are trained;"),
    ],
)
def test_wrong_uses(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *words, "--limit", "60", "--steps", "2", "--gradient-checkpointing"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())
