from nearfar import modalities
from nearfar.modality import digest
from nearfar.sources.words import near_copies, normal, shingles


def test_normal_form():
    assert normal("  Straße\n\tＦｕｌｌ ﬁt ") == "strasse full fit"
    content = modalities.get("text").content
    assert content("A  b") == content("a b")
    assert content("a b") != content("ab")
    assert -(2**63) <= digest(content("x")) < 2**63


def test_near_copies_are_those_of_the_exact_overlap():
    base = " ".join(f"word{i}" for i in range(60))
    texts = [base, base.replace("word59", "other"), "nothing like it at all in here", base + " end", "short"]
    assert near_copies(texts).tolist() == [0, 0, 2, 0, 4]
    far = base.replace("word10", "x").replace("word30", "y").replace("word50", "z")
    overlap = len(shingles(base) & shingles(far)) / len(shingles(base) | shingles(far))
    assert overlap < 0.8
    assert near_copies([base, far]).tolist() == [0, 1]
    assert near_copies([]).tolist() == []
