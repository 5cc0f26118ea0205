"""Small methods, one for each word of the contract that the methods of the library do not all use.

They are known only while `registered` is in force, so that suites over all methods do not meet them.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from nearfar.checks import PositiveFloat, PositiveInt
from nearfar.encoders import frame
from nearfar.losses import info_nce, nt_xent
from nearfar.methods import Inference, Loss, Method, Paper, Phase, Staged, Tower, register, registry
from nearfar.samplers import Balanced, Mixture, OneOf, Partners, Permutation, WholeSet, alike
from nearfar.similarity.exchange import exchange


def paper(title):
    return Paper(title, "a test", "A method of a test.")


class Text(Method):
    """A text encoder and a head; every text is its own view, so that nothing is random but the order."""

    needs = (frozenset({"text"}),)

    def __init__(self, encoder, *, dim: PositiveInt = 8):
        super().__init__()
        self.role, self.tower, self.dim = "text", Tower(encoder, nn.Linear(encoder.dim, dim)), dim

    def make_views(self, batch):
        return {"text": [frame(batch.inputs["text"], self.tower.encoder.special)]}

    def encode(self, batch):
        return {"z": self.tower(batch.views["text"][0])}

    def towers(self):
        return {"text": self.tower}


class InTurn(Text):
    """An augmenter of embeddings that is trained against the encoder.

    Args:
        dim: width.
        every: steps between two updates of the augmenter.
        clip: largest norm of its gradient.
        again: whether the encoder is updated once more, by the same optimiser, behind the augmenter.
    """

    paper = paper("Updates in turn")

    def __init__(self, encoder, *, dim: PositiveInt = 8, every: PositiveInt = 3, clip: PositiveFloat = 0.1,
                 again: bool = False):  # fmt: skip
        super().__init__(encoder, dim=dim)
        self.augment = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())
        self.every, self.limit, self.again = every, clip, again

    def phases(self):
        return [
            Phase("encoder", [self.tower], self.near),
            Phase("augmenter", [self.augment], self.far, every=self.every, lr=0.5, clip_norm=self.limit),
            *([Phase("again", [self.tower], self.near, shares="encoder")] if self.again else []),
        ]

    def views_of(self, batch):
        z = self.encode(batch)["z"]
        self.monitored = z.detach()
        return z, self.augment(z)

    def near(self, batch):
        z, other = self.views_of(batch)
        return Loss(nt_xent(z, other, temperature=0.5, negatives="global"), {"size": z.detach().norm()})

    def far(self, batch):
        z, other = self.views_of(batch)
        return Loss(-nt_xent(z, other, temperature=0.5, negatives="global"))


class Tasks(Staged, Text):
    """Classes come one after the other; some rows of the earlier ones are rehearsed.

    Args:
        dim: width.
        tasks: how many.
    """

    paper = paper("Tasks in sequence")
    needs = (frozenset({"text", "target"}),)
    target = "classes"
    supervised = True

    def __init__(self, encoder, *, dim: PositiveInt = 8, tasks: PositiveInt = 3):
        super().__init__(encoder, dim=dim)
        self.tasks = tasks
        self.register_buffer("kept", torch.full((tasks, 4), -1))

    def prepare(self, data, rows):
        self.parts = [rows[np.asarray(data.targets)[rows] % self.tasks == k] for k in range(self.tasks)]

    def stage_starts(self):
        return [k * self.facts.steps // self.tasks for k in range(self.tasks)]

    def sampler(self, stage):
        new, old = Permutation().only(self.parts[stage]), self.kept[:stage].reshape(-1).cpu().numpy()
        return new if stage == 0 else Mixture((new, 3), (Permutation().only(old), 1))

    def end_stage(self, stage):
        rows = np.random.default_rng(stage).choice(self.parts[stage], 4, replace=False)
        self.kept[stage] = torch.from_numpy(rows)
        noise = torch.rand(())  # a stage's end has random numbers of its own
        return {"kept": float(len(rows)), "noise": float(noise), "spread": float(self.survey.features().std())}

    def resolve(self, facts):
        self.classes = nn.Linear(self.dim, len(facts.classes))
        return {"classes": len(facts.classes)}

    def loss(self, embedded, batch):
        self.monitored = embedded["z"].detach()
        old = torch.isin(batch.rows, self.kept)
        return Loss(cross_entropy(self.classes(embedded["z"]), batch.targets), {"old": old.float().mean()})


class Episodes(Text):
    """Prototypes of some rows of each class tell the others apart.

    Args:
        dim: width.
        ways: classes of an episode.
        shots: rows of a class that make its prototype.
        queries: other rows of a class.
    """

    paper = paper("Episodes")
    needs = (frozenset({"text", "target"}),)
    target = "classes"
    supervised = True
    splits = False

    def __init__(self, encoder, *, dim: PositiveInt = 8, ways: PositiveInt = 3, shots: PositiveInt = 2,
                 queries: PositiveInt = 2):  # fmt: skip
        super().__init__(encoder, dim=dim)
        self.ways, self.shots, self.queries = ways, shots, queries

    def sampler(self, stage):
        return Balanced("target", self.ways, self.shots + self.queries)

    def loss(self, embedded, batch):
        z = embedded["z"].view(batch.members, len(batch), -1)
        self.monitored = z[0].detach()
        net = exchange("global")
        prototypes = net.gather(z[: self.shots].mean(0))[0]  # those of all processes
        classes = net.gather(batch.targets.view(batch.members, -1)[0])[0]
        scores = -torch.cdist(z[self.shots :].flatten(0, 1), prototypes).square()
        aim = (batch.targets.view(batch.members, -1)[self.shots :].reshape(-1, 1) == classes).long().argmax(1)
        rows = cross_entropy(scores, aim, reduction="none")
        total = net.gather(rows.new_tensor([float(len(rows))]))[0]
        return Loss(rows.sum() / total.sum() * len(total))


class Regression(Text):
    """A number of each text.

    Args:
        dim: width.
    """

    paper = paper("Regression")
    needs = (frozenset({"text", "target"}),)
    target = "numbers"
    supervised = True

    def __init__(self, encoder, *, dim: PositiveInt = 8):
        super().__init__(encoder, dim=dim)
        self.out = nn.Linear(dim, 1)

    def loss(self, embedded, batch):
        self.monitored = embedded["z"].detach()
        return Loss(mse_loss(self.out(embedded["z"])[:, 0], batch.values))

    def inference(self):
        return RegressionAnswer(self.tower.head, self.out)

    @classmethod
    def restore_inference(cls, config, towers):
        return RegressionAnswer(*(nn.Linear(n, m) for n, m in config["layers"]))


@dataclass
class Scale:
    """How the number is told.

    Args:
        times: what it is multiplied with.
    """

    times: PositiveFloat = 1.0


class RegressionAnswer(Inference):
    options = Scale

    def __init__(self, head, out):
        super().__init__()
        self.head, self.out = head, out

    def config(self):
        return {"layers": [(m.in_features, m.out_features) for m in (self.head, self.out)]}

    def predict(self, request, options):
        z = request.embed.raw(request.role, request.rows)
        return {"number": options.times * self.out(self.head(torch.from_numpy(z)))[:, 0]}


class Bags(Text):
    """Batches of one bag, whose members are alike.

    Args:
        dim: width.
    """

    paper = paper("Bags")
    needs = (frozenset({"text", "bag"}),)
    distributed = False

    def sampler(self, stage):
        return OneOf("bag", alpha=0.0)

    def loss(self, embedded, batch):
        self.monitored = embedded["z"].detach()
        assert len(batch.bags.unique()) == 1
        return Loss(embedded["z"].var(0).sum())


class WithPartners(Text):
    """A row finds another one of its class.

    Args:
        dim: width.
    """

    paper = paper("Partners")
    needs = (frozenset({"text", "label"}),)
    supervised = True

    def prepare(self, data, rows):
        self.draw = alike(rows, next(iter(data.labels.values()))[rows])

    def sampler(self, stage):
        return Partners(self.draw)

    def loss(self, embedded, batch):
        a, b = embedded["z"].chunk(2)
        self.monitored = a.detach()
        return Loss(info_nce(a, b, temperature=0.5, negatives="global"))


class Whole(Text):
    """All rows in every batch.

    Args:
        dim: width.
    """

    paper = paper("The whole set")

    def sampler(self, stage):
        return WholeSet()

    def loss(self, embedded, batch):
        z = normalize(embedded["z"], dim=1)
        self.monitored = z.detach()
        return Loss((z @ z.T).square().mean(), {"rows": float(batch.everywhere)})


class Variants(Text):
    """Two vectors of each text.

    Args:
        dim: width.
    """

    paper = paper("Variants")

    def __init__(self, encoder, *, dim: PositiveInt = 8):
        super().__init__(encoder, dim=dim)
        self.common = Tower(encoder, nn.Linear(encoder.dim, dim), kept=True)
        self.salient = Tower(encoder, nn.Linear(encoder.dim, dim), kept=True)

    def encode(self, batch):
        return {"a": self.common(batch.views["text"][0]), "b": self.salient(batch.views["text"][0])}

    def loss(self, embedded, batch):
        self.monitored = embedded["a"].detach()
        return Loss(info_nce(embedded["a"], embedded["b"], temperature=0.5, negatives="global"))

    def towers(self):
        return {"text": self.common, "text/salient": self.salient}


class Untrained(Text):
    """The encoder as it is, centred by the training rows.

    Args:
        dim: width.
    """

    paper = paper("Nothing is trained")
    trained = False

    def towers(self):
        return {"text": Tower(self.tower.encoder)}


class Words(Method):
    """Which word follows which, counted; it gives no vectors.

    Args:
        smoothing: added to every count.
    """

    paper = paper("Words that follow")
    needs = (frozenset({"text"}),)
    trained = False

    def __init__(self, *, smoothing: PositiveFloat = 1e-6):
        super().__init__()
        self.role, self.smoothing = "text", smoothing

    @classmethod
    def wants(cls, roles, by_group):
        return []

    def prepare(self, data, rows):
        texts = [["", *text.split(), ""] for text in data.texts("text", rows)]
        self.words = sorted({word for text in texts for word in text})
        place = {word: k for k, word in enumerate(self.words)}
        counts = torch.full((len(self.words), len(self.words)), self.smoothing)
        for text in texts:
            for a, b in pairwise(text):
                counts[place[a], place[b]] += 1
        self.register_buffer("counts", counts)

    def towers(self):
        return {}

    def inference(self):
        return WordAnswer(self.words, self.counts)

    @classmethod
    def restore_inference(cls, config, towers):
        return WordAnswer(config["words"], torch.zeros(len(config["words"]), len(config["words"])))


@dataclass
class Decoding:
    """How words are drawn.

    Args:
        length: most words.
        how: the likeliest word, or one drawn by its share.
    """

    length: PositiveInt = 5
    how: Literal["likeliest", "drawn"] = "likeliest"


class WordAnswer(Inference):
    options = Decoding

    def __init__(self, words, counts):
        super().__init__()
        self.words = list(words)
        self.register_buffer("counts", counts)

    def config(self):
        return {"words": self.words}

    def generate(self, prompts, options, *, seed=0):
        rng = torch.Generator().manual_seed(seed)
        return [self.continued(prompt, options, rng) for prompt in prompts or [""]]

    def continued(self, prompt, options, rng):
        text = prompt.split()
        for _ in range(options.length):
            row = self.counts[self.words.index(text[-1] if text and text[-1] in self.words else "")]
            k = int(row.argmax()) if options.how == "likeliest" else int(torch.multinomial(row, 1, generator=rng))
            if not self.words[k]:
                break
            text.append(self.words[k])
        return " ".join(text)

    def score(self, request, options):
        texts = request.data.texts("text", request.rows)
        return [float(len(text.split())) for text in texts]


TOYS = {
    "toy-phases": InTurn,
    "toy-tasks": Tasks,
    "toy-episodes": Episodes,
    "toy-regression": Regression,
    "toy-bags": Bags,
    "toy-partners": WithPartners,
    "toy-whole": Whole,
    "toy-variants": Variants,
    "toy-untrained": Untrained,
    "toy-words": Words,
}


@contextmanager
def registered():
    for slug, cls in TOYS.items():
        if cls.slug:
            registry._registered[slug] = cls
        else:
            register(slug, family="tests")(cls)
    try:
        yield
    finally:
        for slug in TOYS:
            registry._registered.pop(slug, None)
