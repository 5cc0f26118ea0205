"""nearfar's own transformer and transformers' folders, as encoders of layers: naive computation, padding, injected
vectors, tied scores, experts, gates, and a model folder of each."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from nearfar import encoders
from nearfar.encoders import Embedded, Tokens, layered
from nearfar.encoders.inserted import Experts, Gate
from nearfar.encoders.transformer import SIZES, Size, rotated, rotations
from nearfar.errors import InputError

from .transformer_folder import TEXTS, write_bert, write_modernbert

CORPUS = ["a cat sat on the mat", "the dog ran away", "Der Hund läuft", "猫が座る", "stock prices fell on monday"] * 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("folders")
    return {"bert": write_bert(place / "bert", dropout=0.1), "modernbert": write_modernbert(place / "modernbert")}


def own(**options):
    torch.manual_seed(0)
    return encoders.text("tiny", texts=CORPUS, vocabulary=150, dim=16, **options)


@pytest.fixture(params=["own", "bert", "modernbert"])
def encoder(request, folders):
    torch.manual_seed(0)
    made = own() if request.param == "own" else encoders.text(str(folders[request.param]))
    return made.eval()


def naive(encoder, text):
    """One text, by loops over layers, heads and places, in float64."""
    e = copy.deepcopy(encoder).double()
    sd = dict(e.named_parameters())
    ids = e.build(e.encode_ids([text])).ids[0]
    x = sd["table.weight"][ids]
    length, dim = x.shape
    if e.places is not None:
        x = x + sd["places.weight"][:length]

    def norm(v, name):
        mean = v.mean(-1, keepdim=True)
        var = ((v - mean) ** 2).mean(-1, keepdim=True)
        return (v - mean) / (var + 1e-5).sqrt() * sd[name + ".weight"] + sd[name + ".bias"]

    def linear(v, name):
        return v @ sd[name + ".weight"].T + sd[name + ".bias"]

    def turned(v, place):
        half = len(v) // 2
        out = torch.empty_like(v)
        for i in range(half):
            angle = place / 10_000 ** (2 * i / len(v))
            out[i] = v[i] * math.cos(angle) - v[i + half] * math.sin(angle)
            out[i + half] = v[i] * math.sin(angle) + v[i + half] * math.cos(angle)
        return out

    for k in range(e.depth):
        at = f"stack.{k}."
        q, key, v = linear(norm(x, at + "before_attention"), at + "qkv").split(dim, 1)
        seen, d = torch.zeros_like(x), dim // e.heads
        for h in range(e.heads):
            cut = slice(h * d, (h + 1) * d)
            for i in range(length):
                last = i + 1 if e.causal else length
                rotary = e.places is None
                qi = turned(q[i, cut], i) if rotary else q[i, cut]
                scores = torch.stack([(turned(key[j, cut], j) if rotary else key[j, cut]) @ qi for j in range(last)])
                seen[i, cut] = torch.softmax(scores / math.sqrt(d), 0) @ v[:last, cut]
        x = x + linear(seen, at + "out")
        up = linear(norm(x, at + "before_mlp"), at + "mlp.0")
        x = x + linear(up * 0.5 * (1 + torch.erf(up / math.sqrt(2))), at + "mlp.2")
    return norm(x, "norm")


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("causal", [False, True])
def test_states_are_those_of_the_loops(positions, causal):
    encoder = own(positions=positions, causal=causal).eval()
    texts = ["a cat sat on the mat", "prices"]
    states, mask = encoder.double().tokens(encoder.prepare(texts))
    for i, text in enumerate(texts):
        there = int(mask[i].sum())
        assert_close(states[i, :there], naive(encoder, text), atol=2e-6, rtol=1e-5)  # angles are float32


@pytest.mark.parametrize(("pooling", "row"), [("mean", None), ("cls", 0), ("lasttoken", -1)])
def test_pooling(pooling, row):
    encoder = own(pooling=pooling).eval()
    states, mask = encoder.tokens(x := encoder.prepare(["the dog ran", "a cat sat on the mat"]))
    for i, vector in enumerate(encoder(x)):
        each = states[i, mask[i]]
        assert_close(vector, each.mean(0) if row is None else each[row])


def test_rotations_make_products_depend_on_the_distance():
    torch.manual_seed(0)
    q, k = torch.randn(2, 8).double()
    turn = rotations(12, 8)
    qs, ks = (rotated(v.expand(12, 8), turn) for v in (q, k))
    assert_close(qs[3] @ ks[1], qs[11] @ ks[9], atol=1e-6, rtol=1e-6)
    assert_close(qs[0] @ ks[0], q @ k, atol=1e-6, rtol=1e-6)
    assert (qs[3] @ ks[1] - qs[3] @ ks[2]).abs() > 1e-3


def test_what_a_causal_token_sees():
    plain, causal = own().eval(), own(causal=True).eval()
    for encoder, kept in ((plain, False), (causal, True)):
        x = encoder.prepare(["a cat sat on the mat"])
        other = x._replace(ids=x.ids.clone())
        other.ids[0, 4] = 7
        same = (encoder.tokens(x)[0][0, :4] == encoder.tokens(other)[0][0, :4]).all()
        assert bool(same) == kept


def test_padding_changes_nothing(encoder):
    short = encoder.prepare(["a cat sat"])
    fill = torch.nn.functional.pad
    more = Tokens(fill(short.ids, (0, 5), value=encoder.special.pad), fill(short.mask, (0, 5)))
    assert_close(encoder(more), encoder(short), atol=1e-6, rtol=1e-5)
    states, mask = encoder.tokens(more, layers=2)
    assert states[:, ~mask].abs().sum() == 0
    assert states.shape == (2, *mask.shape, encoder.width)


def test_layers_last_first(encoder):
    x = encoder.prepare(TEXTS)
    two, one = encoder.tokens(x, layers=2)[0], encoder.tokens(x, layers=1)[0]
    assert_close(two[0], encoder.tokens(x)[0])
    assert_close(one[0], two[0])
    assert (two[0] - two[1]).abs().max() > 1e-4
    for wrong in (0, 3):
        with pytest.raises(InputError, match="between 1 and 2"):
            encoder.tokens(x, layers=wrong)


def test_embedded_tokens_give_what_tokens_give(encoder):
    x = encoder.prepare(TEXTS)
    given = encoder.embedded(x)
    assert isinstance(given, Embedded)
    assert given.end.tolist() == (x.mask.sum(1) - 1).tolist()
    assert_close(encoder(given), encoder(x))
    put = given.vectors.clone()
    put[0, 1, 0] += 1.0  # a shift of all numbers a layer norm takes out
    assert (encoder(given._replace(vectors=put))[0] - encoder(x)[0]).abs().max() > 1e-4
    leaf = given.vectors.detach().requires_grad_()
    encoder(given._replace(vectors=leaf)).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_tied_scores_of_the_vocabulary(encoder):
    states, _ = encoder.tokens(encoder.prepare(TEXTS))
    scores = encoder.logits(states)
    assert scores.shape == (*states.shape[:2], encoder.table.num_embeddings)
    assert_close(scores[0, 1, 3], states[0, 1] @ encoder.table.weight[3])


def test_experts_begin_as_the_encoder_itself(encoder):
    x = encoder.prepare(TEXTS)
    before = encoder(x)
    encoder.add_experts(3)
    for rows in ([0, 0, 0, 0, 0], [2, 1, 0, 1, 2]):
        assert_close(encoder(x._replace(route=torch.tensor(rows))), before, atol=1e-6, rtol=1e-5)


def test_a_text_depends_on_its_own_expert_alone(encoder):
    encoder.add_experts(3)
    torch.manual_seed(1)
    experts = [m for m in encoder.modules() if isinstance(m, Experts)]
    for module in experts:
        for p in module.experts[1].parameters():
            p.data += 0.1 * torch.randn_like(p)
    x = encoder.prepare(TEXTS[:4])._replace(route=torch.tensor([0, 1, 1, 0]))
    out = encoder(x)
    order = torch.tensor([3, 1, 0, 2])
    assert_close(encoder(Tokens(x.ids[order], x.mask[order], x.route[order])), out[order], atol=1e-6, rtol=1e-5)
    alone = encoder(x._replace(route=torch.tensor([0, 0, 0, 0])))
    assert_close(out[[0, 3]], alone[[0, 3]], atol=1e-6, rtol=1e-5)
    assert (out[1] - alone[1]).abs().max() > 1e-4
    encoder(x).sum().backward()
    for module in experts:
        assert all(p.grad is None for p in module.experts[2].parameters())  # no text is of this domain
        assert all(p.grad is not None for p in module.experts[1].parameters())


def test_routers_choose_by_their_highest_mean(encoder):
    encoder.add_experts(3, routing="router")
    x = encoder.prepare(TEXTS)
    encoder(x)
    logits = encoder.router_logits
    assert logits.shape == (encoder.depth, len(TEXTS), 3)
    copied = copy.deepcopy(encoder)  # the route of a copy is its own
    assert copied.route.logits == []
    assert_close(copied(x), encoder(x))
    first = next(m for m in encoder.modules() if isinstance(m, Experts))
    with torch.no_grad():
        first.router.weight[1] = 0
        first.router.weight[2] = -first.router.weight[0]
    encoder(x)
    assert (encoder.router_logits[0].argmax(1) != 1).all()
    assert_close(encoder.router_logits[0][:, 2], -encoder.router_logits[0][:, 0])


def test_experts_refuse_what_names_none(encoder):
    encoder.add_experts(2)
    x = encoder.prepare(TEXTS)
    with pytest.raises(InputError, match="2 experts or domains, and its texts name none"):
        encoder(x)
    for wrong in ([0, 1], [0, 1, 2, 0, 0]):
        with pytest.raises(InputError, match=r"name \d experts, of 0 to 1"):
            encoder(x._replace(route=torch.tensor(wrong)))
    with pytest.raises(InputError, match="experts already"):
        encoder.add_experts(2)
    with pytest.raises(InputError, match="routing must be one of"):
        own().add_experts(2, routing="best")


def test_gates_after_each_layer(encoder):
    x = encoder.prepare(TEXTS)
    before = encoder(x)
    encoder.add_gates()
    assert len(encoder.gates) == encoder.depth
    for gate in encoder.gates:
        gate.mu.data.fill_(1)
    assert_close(encoder(x), before, atol=1e-6, rtol=1e-5)  # open gates of one
    encoder.gates[0].mu.data[:4] = 1e-4
    closed = encoder(x)
    assert (closed - before).abs().max() > 1e-4
    assert_close(encoder(x), closed, atol=0, rtol=0)
    encoder.train()
    torch.manual_seed(0)
    noisy = encoder(x)
    assert (encoder(x) - noisy).abs().max() > 1e-6


def test_gates_stand_in_the_states_of_every_layer(encoder):
    x = encoder.prepare(TEXTS)
    encoder.add_gates()
    for gate in encoder.gates:
        gate.mu.data.fill_(1)
    before = encoder.tokens(x, layers=2)[0]
    encoder.gates[0].mu.data[:4] = 3
    assert (encoder.tokens(x, layers=2)[0] - before).abs().amax((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("routing", ["domain", "router"])
def test_experts_after_gates(encoder, routing):
    encoder.add_gates()
    encoder.add_experts(2, routing=routing)
    experts = [m for m in encoder.modules() if isinstance(m, Experts)]
    x = encoder.prepare(TEXTS)._replace(route=torch.ones(len(TEXTS), dtype=torch.long))
    before = encoder(x)
    for module in experts:
        for p in module.experts.parameters():
            p.data += 0.1 * torch.randn_like(p)
    assert (encoder(x) - before).abs().max() > 1e-4
    assert len([k for k in encoder.state_dict() if ".experts.1." in k]) > 0
    with pytest.raises(InputError, match="already"):
        encoder.add_gates()


def test_layers_before_the_last_pass_the_last_norm(encoder):
    """ModernBERT and nearfar's own have norms before the blocks: without the last norm, states have another scale."""
    with torch.no_grad():
        for p in encoder.stack[0].parameters():
            p *= 3 if p.dim() > 1 else 1
    states, mask = encoder.tokens(encoder.prepare(TEXTS), layers=2)
    scale = [float(h[mask].detach().std()) for h in states]
    assert 0.5 < scale[0] / scale[1] < 2


def test_names_of_tensors_are_those_of_the_model(encoder):
    """No tensor stands twice, so that folders of earlier versions still fit."""
    names = list(encoder.state_dict())
    assert len({encoder.state_dict()[n].data_ptr() for n in names}) == len(names)
    if isinstance(encoder, encoders.TransformerText):
        assert all(n.startswith("model.") for n in names)


def test_albert_is_read_but_not_looked_into(tmp_path):
    from transformers import AlbertConfig, AlbertModel

    folder = write_bert(tmp_path / "albert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    AlbertModel(AlbertConfig(vocab_size=15, embedding_size=8, max_position_embeddings=48, **sizes)).save_pretrained(
        folder
    )
    made = encoders.text(str(folder)).eval()
    assert made(made.prepare(TEXTS)).shape == (len(TEXTS), 16)
    with pytest.raises(InputError, match="layers do not stand in one list"):
        layered(made, "A method")
    with pytest.raises(InputError, match="no tied scores"):
        made.logits(torch.zeros(1, 16))


def test_a_gate_draws_once_a_row_and_closes_by_signal_to_noise():
    torch.manual_seed(0)
    gate, x = Gate(6), torch.rand(3, 5, 6) + 1
    factor = gate(x) / x
    assert_close(factor, factor[:, :1].expand_as(factor))
    assert (factor[0, 0] - factor[1, 0]).abs().max() > 0
    gate.eval()
    gate.mu.data = torch.tensor([1.0, 0.1, -0.1, 2.0, 0.0, 1e-3])
    gate.logvar.data = torch.tensor([0.02, 0.0, -6.0, 0.0, -3.0, -13.0])  # exp of half: 1.01, 1, .05, 1, .22, .0015
    assert_close(gate(torch.ones(1, 1, 6))[0, 0], torch.tensor([0.0, 0.0, -0.1, 2.0, 0.0, 0.0]))


@pytest.mark.parametrize("inserted", ["none", "experts", "router", "gates"])
def test_a_description_makes_the_same_encoder(encoder, inserted, tmp_path):
    if inserted in ("experts", "router"):
        encoder.add_experts(2, routing="domain" if inserted == "experts" else "router")
    elif inserted == "gates":
        encoder.add_gates()
    encoder.save_files(tmp_path)
    fresh = encoders.from_config(encoder.config(), tmp_path)
    fresh.load_state_dict(encoder.state_dict())
    x = encoder.prepare(TEXTS)._replace(route=torch.tensor([0, 1, 0, 1, 0]))
    assert_close(fresh.eval()(x), encoder(x))
    assert fresh.config() == encoder.config()


def test_sizes_and_what_a_name_does_not_have():
    assert own().config()["size"] == [2, 16, 4]
    assert encoders.text("mini", texts=CORPUS, vocabulary=150).dim == SIZES["mini"].dim == 256
    with pytest.raises(InputError, match="'small' has no pooling"):
        encoders.text("small", texts=CORPUS, pooling="cls")
    with pytest.raises(InputError, match="'small' has no causal"):
        encoders.text("small", texts=CORPUS, causal=True)
    with pytest.raises(InputError, match="'tiny' has no prompt"):
        encoders.text("tiny", texts=CORPUS, prompt="query: ")
    with pytest.raises(InputError, match="'positions' must be"):
        own(positions="sinus")
    with pytest.raises(InputError, match="8 divides"):
        encoders.text("tiny", texts=CORPUS, vocabulary=150, dim=12)
    with pytest.raises(InputError, match="tokenizer on your texts"):
        encoders.text("tiny")
    with pytest.raises(InputError, match="all texts would get one vector"):
        own(causal=True, pooling="cls")
    for number in (0, -1):
        with pytest.raises(InputError, match="'experts' must be"):
            own().add_experts(number)


def test_more_tokens_than_learned_positions():
    encoder = own(positions="learned", length=8).eval()
    long = encoder.prepare(["a cat " * 40])
    assert long.ids.shape == (1, 8)
    given = encoder.embedded(long)
    wide = Embedded(given.vectors.repeat(1, 2, 1), given.mask.repeat(1, 2), given.end)
    with pytest.raises(InputError, match="16 tokens, and there are 8 learned positions"):
        encoder(wide)


def test_only_encoders_of_layers_are_taken_as_such():
    assert isinstance(layered(own(), "A method"), encoders.LayeredText)
    for other in (encoders.text("small", texts=CORPUS, vocabulary=150), encoders.Frozen(own())):
        with pytest.raises(InputError, match=r"A method looks into the layers .*this is ('small'|a frozen one)"):
            layered(other, "A method")


def test_heads_and_depth_of_another_size():
    from nearfar.encoders.transformer import Transformer

    tokenizer = own().tokenizer
    made = Transformer(tokenizer, Size(1, 24, 3))
    assert (made.depth, made.width, len(made.stack)) == (1, 24, 1)
    with pytest.raises(InputError, match="6 divides"):
        Transformer(tokenizer, Size(1, 16, 3))


def test_tokens_are_added_and_spans_told_by_a_folder_too(folders, tmp_path):
    text = "the dog ran"
    for name in folders:
        encoder = encoders.text(str(folders[name])).eval()
        before, was = encoder.special.size, encoder(encoder.prepare([text])).detach()
        ids, spans = encoder.encode_spans([text, ""])
        assert ids == encoder.encode_ids([text, ""])
        assert "".join(text[a:b] for a, b in spans[0]).replace(" ", "") == text.replace(" ", "")
        added = encoder.add_tokens(["<|keyword|>", "<|string|>"])
        assert encoder.special.size == before + 2
        assert encoder.encode_ids(["<|string|>"]) == [[added[1]]]
        torch.testing.assert_close(encoder(encoder.prepare([text])), was)
        assert encoder.logits(encoder.tokens(encoder.prepare([text]))[0]).shape[-1] >= before + 2
        encoder.save_files(tmp_path / name)
        again = encoders.from_config(encoder.config(), tmp_path / name)
        again.load_state_dict(encoder.state_dict())
        assert again.encode_ids(["<|string|>"]) == [[added[1]]]
