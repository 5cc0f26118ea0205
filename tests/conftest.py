"""Shared fixtures: a cache of their own, and small real data."""

import os
import sys
import urllib.request

import pytest


@pytest.fixture(autouse=True)
def same_threads():
    """No test leaves torch another number of threads, which would change the bits of what comes after it."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch:
        after = torch.get_num_threads()
        torch.set_num_threads(before)
        assert after == before


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's cache."""
    before = os.environ.get("NEARFAR_CACHE")
    os.environ["NEARFAR_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["NEARFAR_CACHE"]
    else:
        os.environ["NEARFAR_CACHE"] = before


@pytest.fixture(scope="session")
def emoji_few(own_cache):
    """400 rows of the built-in set, all columns."""
    from nearfar.sources import open_data

    return open_data("emoji", limit=400)


def write_bags(path, bags=60, size=6, share=0.34, seed=0):
    """A table of bags of rows of four numbers: in a positive bag a share of the rows lie elsewhere. Columns: a, b, c,
    d, bag, state (of the bag), truth (of the row)."""
    import numpy as np

    rng, lines = np.random.default_rng(seed), ["a,b,c,d,bag,state,truth"]
    for bag in range(bags):
        for place in range(size):
            hot = bag % 2 == 1 and place < share * size
            row = rng.normal(size=4) + np.array([3 * hot, 0, -2 * hot, 0])
            lines.append(",".join([*(f"{x:.4f}" for x in row), f"slide {bag}", ("normal", "tumour")[bag % 2],
                                   ("normal", "tumour")[hot]]))  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def bags_few(own_cache, tmp_path_factory):
    """60 bags of six rows of numbers, half of them positive."""
    from nearfar.sources import open_data

    table = write_bags(tmp_path_factory.mktemp("bags") / "bags.csv")
    return open_data(table, roles={"bag": "bag", "target": "state", "label": ["truth"]})


def write_judged(path, rows=160, kinds=("differs", "same"), seed=0):
    """Pairs of sentences that are about one animal or about two, the scores of a teacher, and a number beside them.
    Columns: sentence1, sentence2, label, how_near, teacher."""
    import numpy as np

    rng = np.random.default_rng(seed)
    animals = ["cat", "dog", "bird", "fish", "horse", "cow", "mouse", "lion"]
    acts = ["sleeps", "runs", "eats", "jumps", "sings", "hides"]
    lines = ["sentence1,sentence2,label,how_near,teacher"]
    for k in range(rows):
        same, (one, two) = k % 2, rng.choice(animals, 2, replace=False)
        a, b = (
            f"the {one} {rng.choice(acts)} in house {k}",
            f"a {one if same else two} that {rng.choice(acts)} near {k}",
        )
        score = (3 if same else -3) + rng.normal()
        lines.append(f"{a},{b},{kinds[same]},{2 + score / 2:.3f},{score:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def judged_few(own_cache, tmp_path_factory):
    """160 pairs of sentences with a label of two and the scores of a teacher."""
    from nearfar.sources import open_data

    return open_data(write_judged(tmp_path_factory.mktemp("judged") / "pairs.csv", kinds=("no", "yes")))


def write_domains(path, rows=150, names=("sea", "sky", "wood")):
    """Pairs of sentences of three domains, each about one thing. Columns: question, answer, field."""
    things = {"sea": ["fish", "whale", "crab", "seal"], "sky": ["bird", "cloud", "bat", "star"],
              "wood": ["bear", "fox", "oak", "owl"]}  # fmt: skip
    lines = ["question,answer,field"]
    for k in range(rows):
        name = names[k % len(names)]
        one = things[name][k // 3 % 4]
        lines.append(f"where is the {one} of day {k},the {one} number {k} lives there,{name}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def domains_few(own_cache, tmp_path_factory):
    """150 pairs of sentences of three domains."""
    from nearfar.sources import open_data

    return open_data(write_domains(tmp_path_factory.mktemp("domains") / "pairs.csv"), roles={"domain": "field"})


def write_notes(path, rows=160, names=("animal", "plant")):
    """Sentences of two classes about a thing and its place, with a word that agrees with the class in three of four
    rows. Columns: note, aspect, kind, part (clean or reversed)."""
    things = {"animal": ["fox", "owl", "bear", "fish"], "plant": ["oak", "fern", "rose", "moss"]}
    lines = ["note,aspect,kind,part"]
    for k in range(rows):
        kind = names[k % 2]
        other = names[1 - k % 2] if k % 8 > 5 else kind
        place = ("hill", "lake", "barn")[k % 3]
        lines.append(f"{other[:2]}zz the {things[kind][k // 2 % 4]} of {place} {k} grows,{place},{kind},"
                     f"{'clean' if other == kind else 'reversed'}")  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def notes_few(own_cache, tmp_path_factory):
    """160 sentences of two classes."""
    from nearfar.sources import open_data

    table = write_notes(tmp_path_factory.mktemp("notes") / "notes.csv")
    return open_data(table, roles={"text": "note", "text_b": None, "target": "kind", "domain": "part"})


def write_triplets(path, rows=160, seed=0):
    """Sentences about an animal with one about the same and one about another; every fifth row has them in each other's
    place, and the scores know it. Columns: anchor, positive, negative, score_positive, score_negative."""
    import numpy as np

    rng, lines = np.random.default_rng(seed), ["anchor,positive,negative,score_positive,score_negative"]
    animals = ["cat", "dog", "bird", "fish", "horse", "cow", "mouse", "lion"]
    acts = ["sleeps", "runs", "eats", "jumps", "sings", "hides"]
    for k in range(rows):
        one, two = rng.choice(animals, 2, replace=False)
        pair = [(f"a {one} that {rng.choice(acts)} lives there", 3.5 + k % 3 / 2),
                (f"the {two} number {k} {rng.choice(acts)}", 1 + k % 4 / 2)]  # fmt: skip
        (p, s), (n, t) = pair[::-1] if k % 5 == 0 else pair
        lines.append(f"the {one} {rng.choice(acts)} in house {k},{p},{n},{s:.1f},{t:.1f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def triplets_few(own_cache, tmp_path_factory):
    """160 triplets of sentences with two scores each."""
    from nearfar.sources import open_data

    return open_data(write_triplets(tmp_path_factory.mktemp("triplets") / "triplets.csv"))


@pytest.fixture(scope="session")
def code_few(own_cache, tmp_path_factory):
    """140 small functions of Python and what they do."""
    import json

    from nearfar.sources import open_data

    verbs = ["add", "count", "read", "sort", "merge", "find", "drop", "scale", "split", "join", "copy", "check", "move",
             "save"]  # fmt: skip
    nouns = ["rows", "files", "words", "trees", "edges", "dates", "parts", "names", "pages", "links"]
    rows = [{"query": f"{verb} the {noun}", "code": f"def {verb}_{noun}(x):\n    return {verb}(x, {i}) + '{noun}'"}
            for i, verb in enumerate(verbs) for noun in nouns]  # fmt: skip
    path = tmp_path_factory.mktemp("code") / "code.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return open_data(path, roles={"text": "query", "text_b": "code"})


def dialogue(k):
    """Three utterances about one thing; of two in three dialogues the turns of the user are annotated."""
    what, place = (("room", "table", "ticket", "taxi")[k % 4], ("north", "south", "centre")[k // 4 % 3])
    domain, verb = (("hotel", "food", "train", "taxi")[k % 4], ("find", "book")[k // 2 % 2])
    asked = {"role": "user", "text": f"i need a {what} in the {place} number {k}"}
    told = {"role": "user", "text": f"{verb} it for {k % 5 + 2} people please"}
    if k % 3:
        asked["tree"] = {domain: {"find": {"area": place}}}
        told["tree"] = [[domain, verb, "area", place], [domain, verb, "people", str(k % 5 + 2)]]
    return {"dialogue_id": f"d{k}", "turns": [asked, {"role": "system", "text": f"there is {what} {k % 7} free"}, told]}


@pytest.fixture(scope="session")
def dialogues_few(own_cache, tmp_path_factory):
    """60 dialogues of two turns of the user each, 40 of them annotated."""
    import json

    from nearfar.sources import open_data

    path = tmp_path_factory.mktemp("dialogues") / "dialogues.jsonl"
    path.write_text("\n".join(json.dumps(dialogue(k)) for k in range(60)))
    return open_data(path)


def write_network(folder, n=60, seed=0, text=False):
    """nodes.csv and edges.csv of three communities, whose nodes have words (or numbers) of their own; two bridges and
    one node without any edge."""
    import numpy as np

    rng = np.random.default_rng(seed)
    part = np.arange(n) % 3
    names = ["red", "green", "blue"]
    if text:
        known = [f"{names[k]} {names[k]} thing{i % 7} word{i % 5}" for i, k in enumerate(part)]
        head, rows = "id,label,about", [f"v{i},{names[k]},{known[i]}" for i, k in enumerate(part)]
    else:
        x = rng.normal(size=(n, 4)) + 1.5 * np.eye(4)[part]
        head = "id,label,a,b,c,d"
        rows = [f"v{i},{names[k]}," + ",".join(f"{v:.4f}" for v in x[i]) for i, k in enumerate(part)]
    pairs = {(i, i + 3) for i in range(n - 4)} | {(i, i + 9) for i in range(n - 10)} | {(0, 1), (1, 2)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nodes.csv").write_text("\n".join([head, *rows]) + "\n", "utf-8")
    lines = [f"v{a},v{b}" for a, b in sorted(pairs) if n - 1 not in (a, b)]
    (folder / "edges.csv").write_text("\n".join(["source,target", *lines]) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def network_few(tmp_path_factory):
    """A graph of 60 nodes with numbers and classes."""
    from nearfar.sources import open_data

    return open_data(write_network(tmp_path_factory.mktemp("network") / "graph"))


def write_text_network(folder, n=60, seed=0):
    """nodes.csv and edges.csv of three communities of about eight neighbours a node; a text has words of its community,
    of a theme within it and of nothing. The last node has no edge."""
    import numpy as np

    rng, names = np.random.default_rng(seed), ["red", "green", "blue"]
    rows = []
    for i in range(n):
        own = [f"{names[i % 3]}{k}" for k in rng.integers(6, size=5)] + [f"theme{i % 12}"] * 2
        rows.append(f"v{i},{names[i % 3]}," + " ".join([*own, *(f"word{k}" for k in rng.integers(20, size=3))]))
    pairs = {tuple(sorted((i, int(j)))) for i in range(n - 1) for j in rng.integers(n - 1, size=7)
             if (i != j and (i - j) % 3 == 0) or ((i + j) % 11 == 0 and i != j)}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nodes.csv").write_text("\n".join(["id,label,about", *rows]) + "\n", "utf-8")
    (folder / "edges.csv").write_text(
        "\n".join(["source,target", *(f"v{a},v{b}" for a, b in sorted(pairs))]) + "\n", "utf-8"
    )
    return folder


@pytest.fixture(scope="session")
def text_network_few(tmp_path_factory):
    """A graph of 60 nodes with texts and classes."""
    from nearfar.sources import open_data

    return open_data(write_text_network(tmp_path_factory.mktemp("text network") / "graph"))


def write_typed_network(folder, papers=48, authors=16, seed=0):
    """nodes.csv and edges.csv of papers of three fields, which alone have labels and four numbers, and of authors, who
    write within a field for the most part; papers cite papers of their field. The last paper has neither."""
    import numpy as np

    rng, names = np.random.default_rng(seed), ["red", "green", "blue"]
    x = rng.normal(size=(papers, 4)) + 1.5 * np.eye(4)[np.arange(papers) % 3]
    rows = [f"p{i},paper,{names[i % 3]}," + ",".join(f"{v:.4f}" for v in x[i]) for i in range(papers)]
    rows += [f"a{k},author,,,,," for k in range(authors)]
    writes = {(3 * int(rng.integers(authors // 3)) + (i + (n == 2 and i % 4 == 0)) % 3, i)
              for i in range(papers - 1) for n in range(3)}  # fmt: skip
    cites = {(i, i + 3) for i in range(0, papers - 4, 2)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nodes.csv").write_text("\n".join(["id,type,label,a,b,c,d", *rows]) + "\n", "utf-8")
    lines = [f"a{k},p{i},writes" for k, i in sorted(writes)] + [f"p{i},p{j},cites" for i, j in sorted(cites)]
    (folder / "edges.csv").write_text("\n".join(["source,target,relation", *lines]) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def typed_network_few(tmp_path_factory):
    """A graph of 48 papers with numbers and classes, and of 16 authors; two relations."""
    from nearfar.sources import open_data

    return open_data(write_typed_network(tmp_path_factory.mktemp("typed network") / "graph"))


@pytest.fixture(scope="session")
def log_few(own_cache, tmp_path_factory):
    """60 users who met up to 13 of 24 items."""
    import numpy as np

    from nearfar.sources import open_data
    from tests.modalities.histories import made_up, write

    return open_data(write(tmp_path_factory.mktemp("log") / "log.csv", made_up(np.random.default_rng(0))))


def write_series(path, rows=120, seed=0):
    """A .ts file of noisy waves of two frequencies, in two channels, of unlike lengths and with missing values."""
    import numpy as np

    rng = np.random.default_rng(seed)
    lines = ["@univariate false", "@dimensions 2", "@equalLength false", "@missing true", "@classLabel true slow fast",
             "@data"]  # fmt: skip
    for k in range(rows):
        steps = np.arange(rng.integers(20, 33))
        wave = np.sin((0.3, 0.9)[k % 2] * steps + rng.uniform(0, 6)) + 0.3 * rng.normal(size=len(steps))
        cells = [f"{x:.4f}" for x in wave]
        cells[int(rng.integers(len(cells)))] = "?"
        other = [f"{x:.4f}" for x in rng.normal(size=len(steps))]
        lines.append(f"{','.join(cells)}:{','.join(other)}:{('slow', 'fast')[k % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def series_few(own_cache, tmp_path_factory):
    """120 series of two classes."""
    from nearfar.sources import open_data

    return open_data(write_series(tmp_path_factory.mktemp("series") / "waves.ts"))


@pytest.fixture(scope="session")
def shapes_few(own_cache, tmp_path_factory):
    """160 images of five shapes in four colours, whose captions name both."""
    from nearfar.sources import open_data
    from tests.compositions import write_shapes

    return open_data(write_shapes(tmp_path_factory.mktemp("shapes"), each=8))


@pytest.fixture(scope="session")
def described_few(own_cache):
    """300 handwritten digits and the attributes of their classes, three of which are never trained on."""
    from nearfar.sources import open_data

    return open_data("digit-attributes", limit=300)


@pytest.fixture(scope="session")
def data_of(
    emoji_few,
    bags_few,
    judged_few,
    domains_few,
    notes_few,
    code_few,
    triplets_few,
    dialogues_few,
    network_few,
    text_network_few,
    typed_network_few,
    log_few,
    series_few,
    shapes_few,
    described_few,
):
    """Of the slug of a method: small data that hold what it needs."""
    from nearfar import methods
    from nearfar.sources import open_data

    numbers = open_data("diabetes")

    def suiting(slug):
        needs = methods.get(slug).needs
        if all("attribute" in need for need in needs):
            return shapes_few
        if methods.get(slug).measured_by == "generalised-zero-shot":
            return described_few
        if all("features" in need for need in needs):
            return text_network_few
        if all("node_type" in need for need in needs):
            return typed_network_few
        if all("node" in need for need in needs):
            return network_few
        if all("item" in need for need in needs):
            return log_few
        if all("series" in need for need in needs):
            return series_few
        if any("negative" in need for need in needs):
            return triplets_few
        if all("tree" in need for need in needs):
            return dialogues_few
        if all("bag" in need for need in needs):
            return bags_few
        if all("domain" in need and "text_b" in need for need in needs):
            return domains_few
        if needs == (frozenset({"text", "target"}),):
            return notes_few
        if needs == (frozenset({"text", "text_b"}),):
            return code_few
        if all("text_b" in need for need in needs):
            return judged_few
        return numbers if methods.get(slug).target == "numbers" else emoji_few

    return suiting


SENTENCES = [
    f"{number} {colour} {thing} {where} a {house}"
    for number, (colour, thing, where, house) in enumerate(
        (c, t, w, h) for c in ("red", "green") for t in ("apples", "boats", "stones") for w in ("near", "under")
        for h in ("barn", "bridge", "tower")
    )
]  # fmt: skip


@pytest.fixture(scope="session")
def text_index(own_cache, tmp_path_factory):
    """The index of 36 sentences, beside the small untrained model that made it."""
    import torch

    from nearfar import encoders, indexing
    from nearfar.models import load, save_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sentences")
    encoder = encoders.text("small", texts=SENTENCES, vocabulary=200, dim=16)
    save_model(folder / "model", {"text": encoder}, {"method": "none"})
    model = load(folder / "model")
    payload = {"text": SENTENCES, "weight": [number / 7 for number in range(len(SENTENCES))]}
    return indexing.build_index(folder / "index", model.embed_texts(SENTENCES),
                                [f"s{number}" for number in range(len(SENTENCES))], payload, model_hash=model.hash,
                                meta={"model": str(folder / "model")})  # fmt: skip


KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "something", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bucket():
    """The URL of a bucket on a server of this machine."""
    import fsspec

    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items() | {("AWS_ENDPOINT_URL", f"http://{host}:{port}")}:
            patch.setenv(name, value)
        fsspec.filesystem("s3", skip_instance_cache=True).makedirs("shelf", exist_ok=True)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield "s3://shelf"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"")  # objects outlive a server
    server.stop()


@pytest.fixture
def memory():
    """A store in memory, as fsspec has it."""
    import fsspec

    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
