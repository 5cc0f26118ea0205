"""Answers of local language models: the real loading code on tiny random ones, decoding by hand, what is kept."""

import json

import pytest
import torch

from nearfar.errors import InputError
from nearfar.methods.language_models import LanguageModel, contrastive_scores
from nearfar.sources.storage import cache_dir
from tests.methods.language import save

PROMPTS = ["Sentence: a cat sleeps\nAnswer:", "Sentence: the dog that lives in house 7 runs\nAnswer:", "Go:"]
OTHERS = ["Not so: a cat sleeps\nAnswer:", "Not so: the dog runs\nAnswer:", "Stop, stop:"]


@pytest.fixture(autouse=True)
def own_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=["gpt2", "t5", "bart"])
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp(request.param) / "model", request.param)


def by_hand(folder, prompt, other, most, contrast):
    """One prompt alone, word by word, each time from the start."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    paired = AutoConfig.from_pretrained(folder).is_encoder_decoder
    model = (AutoModelForSeq2SeqLM if paired else AutoModelForCausalLM).from_pretrained(folder).eval()
    tokenizer, out = AutoTokenizer.from_pretrained(folder), []
    asked = [tokenizer(text, return_tensors="pt").input_ids for text in (prompt, other)]
    for _ in range(most):
        scores = []
        for ids in asked:
            if paired:
                made = model(input_ids=ids, decoder_input_ids=torch.tensor([[2, *out]]))
            else:
                made = model(input_ids=torch.cat([ids, torch.tensor([out], dtype=torch.long)], 1))
            scores.append(made.logits[0, -1].log_softmax(0))
        best = int((scores[0] - contrast * scores[1]).argmax())
        out.append(best)
        if best == 1 or "\n" in tokenizer.decode([best]):
            break
    return tokenizer.decode(out, skip_special_tokens=True).strip().partition("\n")[0].strip()


@pytest.mark.parametrize("contrast", [0.0, 0.7])
def test_it_says_what_decoding_by_hand_says(folder, contrast):
    said = LanguageModel(folder, batch=2).answers(PROMPTS, most=12, against=OTHERS, contrast=contrast)
    wanted = [by_hand(folder, a, b, 12, contrast) for a, b in zip(PROMPTS, OTHERS, strict=True)]
    with torch.no_grad():
        assert said == wanted
    assert len(set(said)) > 1


def test_answers_alone_are_those_of_a_batch(folder):
    """Places of a sequence-to-sequence model count from the first token: padding stands behind it."""
    together = LanguageModel(folder, batch=3).answers(PROMPTS, most=11)
    alone = LanguageModel(folder, batch=1)
    alone.digest = "alone"
    assert [alone.answers([prompt], most=11)[0] for prompt in PROMPTS] == together


def test_the_noisy_instruction_changes_words(folder):
    model = LanguageModel(folder)
    plain = model.answers(PROMPTS, most=12)
    assert model.answers(PROMPTS, most=12, against=OTHERS) == plain
    assert model.answers(PROMPTS, most=12, against=OTHERS, contrast=1.5) != plain


def test_contrastive_scores():
    right, noisy = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0]])
    torch.testing.assert_close(contrastive_scores(right, noisy, 0.0), right.log_softmax(1))
    assert int(contrastive_scores(right, noisy, 1.0).argmax()) == 1
    assert contrastive_scores(right, right, 1.0).abs().max() == 0


def test_answers_are_kept_and_read(folder, monkeypatch):
    said = LanguageModel(folder).answers(PROMPTS, most=5)
    kept = list((cache_dir() / "answers").glob("*.json"))
    assert len(kept) == 1
    known = LanguageModel(folder)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: pytest.fail("loaded again"))
    assert known.answers(PROMPTS[::-1], most=5) == said[::-1]
    assert "_loaded" not in vars(known)


def test_an_interruption_keeps_what_was_said(folder):
    class Cut(LanguageModel):
        def _said(self, prompts, *rest):
            if PROMPTS[2] in prompts:
                raise KeyboardInterrupt
            asked.append(list(prompts))
            return super()._said(prompts, *rest)

    class Counted(LanguageModel):
        def _said(self, prompts, *rest):
            asked.append(list(prompts))
            return super()._said(prompts, *rest)

    asked: list = []
    with pytest.raises(KeyboardInterrupt):
        Cut(folder, batch=1).answers(PROMPTS, most=4)
    assert asked == [PROMPTS[:1], PROMPTS[1:2]]
    found = Counted(folder, batch=1).answers(PROMPTS, most=4)
    assert asked[2:] == [PROMPTS[2:]], "only what is missing is asked again"
    assert not list((cache_dir() / "answers").glob("*.tmp"))
    path = next((cache_dir() / "answers").glob("*.json"))
    path.write_bytes(path.read_bytes()[:-3])
    assert Counted(folder, batch=3).answers(PROMPTS, most=4) == found, "a damaged file is made anew"
    assert len(asked) > 3


def test_other_weights_are_another_model(folder, tmp_path):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    one, two = (LanguageModel(save(tmp_path / str(seed), kind, seed)) for seed in (3, 4))
    assert one.digest != two.digest
    assert one.answers(PROMPTS, most=8) != two.answers(PROMPTS, most=8)


def test_wrong_folders_and_long_prompts(tmp_path, folder, monkeypatch):
    with pytest.raises(InputError, match=r"it has no config\.json"):
        LanguageModel(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        LanguageModel(tmp_path).answers(PROMPTS)
    short = save(tmp_path / "short", "gpt2", length=40)
    assert LanguageModel(short).answers(PROMPTS[2:], most=256) != []
    with pytest.raises(InputError, match=r"A prompt has \d+ tokens; the language model .* reads 40"):
        LanguageModel(short).answers(["word " * 30])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="several processes would write them"):
        LanguageModel(folder).answers(["something new"])
