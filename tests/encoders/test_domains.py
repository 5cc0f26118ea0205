"""Encoders of several domains: a vector of the domain in front, an expert of it in every layer, and its name."""

import copy

import pytest
import torch
from torch.testing import assert_close

import nearfar
from nearfar import encoders
from nearfar.errors import InputError
from nearfar.models import build_head, describe_head, save_model

from .test_transformer import own
from .transformer_folder import TEXTS, write_bert

NAMES = ["sea", "sky"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("domains") / "bert")


@pytest.fixture(params=["own", "bert"])
def encoder(request, bert):
    torch.manual_seed(0)
    return (own() if request.param == "own" else encoders.text(str(bert))).eval()


def routed(encoder, *route):
    return encoder.prepare(TEXTS)._replace(route=torch.tensor(route))


def test_domains_begin_as_the_encoder_itself(encoder):
    """Invariant 1: copies of [CLS] and of the MLPs change nothing, for every assignment."""
    before = encoder(encoder.prepare(TEXTS))
    encoder.add_experts(2)
    encoder.add_domains(NAMES)
    for route in ((0, 1, 0, 1, 0), (1, 1, 1, 1, 1)):
        assert_close(encoder(routed(encoder, *route)), before)


def test_the_first_token_alone_is_the_domains(encoder):
    encoder.add_domains(NAMES)
    encoder.domains.weight.data[1] += 1.0
    plain, other = (encoder.embedded(routed(encoder, *[k] * 5)).vectors for k in (0, 1))
    assert_close(other[:, 0] - plain[:, 0], torch.ones_like(plain[:, 0]))
    assert torch.equal(other[:, 1:], plain[:, 1:])
    assert (encoder(routed(encoder, 1, 0, 0, 0, 0)) - encoder(routed(encoder, 0, 0, 0, 0, 0))).abs().amax(1)[1:].max() \
        == 0  # fmt: skip


def test_a_variant_is_the_encoder_with_all_texts_of_one_domain(encoder):
    encoder.add_domains(NAMES)
    encoder.domains.weight.data[1] += 1.0
    views = encoder.variants()
    assert list(views) == list(encoder.domain_names) == NAMES
    for place, name in enumerate(NAMES):
        assert_close(views[name](views[name].prepare(TEXTS)), encoder(routed(encoder, *[place] * 5)))
    assert not list(views["sea"].parameters()), "its weights are those of the whole"
    with pytest.raises(InputError, match=r"texts name none[\s\S]*--variant NAME"):
        encoder(encoder.prepare(TEXTS))
    with pytest.raises(InputError, match="of 0 to 1"):
        encoder(routed(encoder, 0, 2, 0, 0, 0))


def test_a_model_keeps_domains_and_gives_a_vector_of_each(encoder, tmp_path):
    from nearfar import heads

    torch.manual_seed(1)
    encoder.add_experts(2)
    encoder.add_domains(NAMES)
    for p in encoder.parameters():
        p.data += 0.05 * torch.randn_like(p)
    head = heads.pooler(encoder.dim)
    save_model(tmp_path / "m", {"text": (encoder, head)})
    model = nearfar.load(tmp_path / "m", verify=True)
    assert model.variants == NAMES
    found = [model.embed(TEXTS, variant=name) for name in NAMES]
    wanted = head(encoder(routed(encoder, *[1] * 5)))
    assert_close(torch.from_numpy(found[1]), torch.nn.functional.normalize(wanted.detach(), dim=1))
    assert abs(found[0] - found[1]).max() > 1e-3
    with pytest.raises(InputError, match="texts name none"):
        model.embed(TEXTS)
    with pytest.raises(InputError, match=r"no variant 'see'.*'sea'"):
        model.embed(TEXTS, variant="see")
    with pytest.raises(InputError, match="has experts and domains"):
        model.save_sentence_transformer(tmp_path / "st")


def test_wrong_domains(encoder):
    for names in (["sea"], [], ["sea", "sea"]):
        with pytest.raises(InputError, match="two or more different names"):
            encoder.add_domains(names)
    encoder.add_domains(NAMES)
    with pytest.raises(InputError, match="has domains already"):
        encoder.add_domains(NAMES)
    bare = own()
    bare.special = bare.special._replace(bos=None)
    with pytest.raises(InputError, match="no token in front"):
        bare.add_domains(NAMES)
    bare.add_domains(NAMES, token=False)
    assert bare.domains is None


def test_another_pooling(encoder):
    states, _ = encoder.tokens(encoder.prepare(TEXTS))
    encoder.pool_by("cls")
    assert encoder.dim == encoder.width
    assert_close(encoder(encoder.prepare(TEXTS)), states[:, 0])
    with pytest.raises(InputError, match="pooling 'median' is not known"):
        encoder.pool_by("median")


def test_heads_with_norms_and_tanhs_are_data():
    """Invariant 6: the pooler does not see the length of its input."""
    from nearfar import heads

    x = torch.randn(4, 6)
    for kind in ("mlp", "tanh"):
        head = heads.pooler(6, kind)
        again = build_head(describe_head(head))
        again.load_state_dict(head.state_dict())
        assert_close(again(x), head(x))
        other = copy.deepcopy(head)(100 * x)
        assert bool((other - head(x)).abs().max() < 1e-3) == (kind == "mlp")
    with pytest.raises(InputError, match="'pooler' must be"):
        heads.pooler(6, "max")
