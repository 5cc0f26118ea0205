"""A model for MTEB: its vectors are the model's, and a task made of local data gives the correlation that sts gives."""

import importlib.util

import numpy as np
import pytest
from scipy.stats import spearmanr

import nearfar
from nearfar.encoders.for_mteb import MtebEncoder
from nearfar.errors import InputError

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "jetty"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("mteb"), np.random.default_rng(0)
    lines = ["sentence1,sentence2,score"]
    for i in range(80):
        first = list(rng.choice(WORDS, 5))
        second = [word if rng.random() < i % 6 / 5 else str(rng.choice(WORDS)) for word in first]
        lines.append(f"{' '.join(first)} {i},{' '.join(second)} {i},{i % 6}")
    (folder / "sts.csv").write_text("\n".join(lines))
    return folder / "sts.csv"


@pytest.fixture(scope="module")
def model(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    run = nearfar.fit("pairs", pairs, loss="cosent", steps=4, batch_size=16, val_every=0, device="cpu", out=out)
    return nearfar.load(run.path / "model")


def batches(texts, size=7):
    return [{"text": texts[start : start + size]} for start in range(0, len(texts), size)]


def test_vectors_and_similarities_are_those_of_the_model(model):
    encoder, texts = model.for_mteb("me/tiny"), [" ".join(WORDS[i:]) for i in range(9)]
    found = encoder.encode(batches(texts), task_metadata=None, hf_split="test", hf_subset="default")
    assert np.array_equal(found, model.embed(texts, "text"))
    cosines = found @ found.T
    assert np.allclose(encoder.similarity(found, found), cosines, atol=1e-5)
    assert np.allclose(encoder.similarity_pairwise(3 * found, found), np.diag(cosines), atol=1e-5)
    assert encoder.similarity(found[0], found[:2]).shape == (1, 2)
    assert encoder.encode([]).shape == (0, model.dim)


def test_documents_go_through_the_second_tower(model):
    texts = ["amber birch", "cedar delta"]
    encoder = model.for_mteb("me/tiny")
    assert (encoder.role("query"), encoder.role("document"), encoder.role(None)) == ("text", "text_b", "text")
    assert np.array_equal(encoder.encode(batches(texts), prompt_type="document"), model.embed(texts, "text_b"))
    alone = MtebEncoder(type(model)({"text": model.roles["text"]}, model.config), "me/tiny")
    assert alone.role("document") == "text"


@pytest.mark.parametrize("name", ["tiny", "me/", "a/b/c", ""])
def test_a_name_has_an_owner(model, name):
    with pytest.raises(InputError, match="by its owner and its name"):
        model.for_mteb(name)


def test_a_task_of_images_is_refused(model):
    with pytest.raises(InputError, match="the task gives image"):
        model.for_mteb("me/tiny").encode([{"image": [1, 2]}])


@pytest.mark.skipif(importlib.util.find_spec("mteb") is not None, reason="mteb is installed")
def test_without_mteb_the_message_says_what_to_install(model):
    with pytest.raises(InputError, match=r"pip install 'nearfar\[mteb\]'"):
        _ = model.for_mteb("me/tiny").mteb_model_meta


def test_a_task_of_local_data_gives_what_sts_gives(model, pairs):
    """Needs the extra `mteb`; no network."""
    mteb = pytest.importorskip("mteb", reason="the extra mteb is not installed")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    data = nearfar.data(pairs)
    rows = data.splits["test"]

    class Local(AbsTaskSTS):
        metadata = TaskMetadata(
            name="LocalSTS", description="pairs of a file", reference=None, type="STS", category="t2t",
            modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"], main_score="cosine_spearman",
            dataset={"path": "local", "revision": "1"}, date=None, domains=None, task_subtypes=None, license=None,
            annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
        )  # fmt: skip

        def load_data(self, **_):
            columns = {"sentence1": data.texts("text", rows), "sentence2": data.texts("text_b", rows)}
            self.dataset = DatasetDict({"test": Dataset.from_dict(columns | {"score": data.scores[rows].tolist()})})
            self.data_loaded = True

    found = mteb.evaluate(model.for_mteb("me/tiny"), Local(), cache=None, show_progress_bar=False)
    score = found.task_results[0].get_score()
    z = [model.embed(data.texts(role, rows), "text") for role in ("text", "text_b")]
    assert score == pytest.approx(spearmanr((z[0] * z[1]).sum(1), data.scores[rows]).statistic, abs=1e-5)
    assert found.model_name == "me/tiny"
