"""Stages 1 and 2 of MultiCSR: who is drawn, how answers are read, what is swapped, kept and dropped."""

import math
from dataclasses import replace

import numpy as np
import pytest

import nearfar
from nearfar.errors import InputError
from nearfar.methods import triplet_scores as scoring
from nearfar.methods import triplets as t

ALL = ("3/3+gap", "4/3", "4/2", "5/3", "5/2", "4/1", "4/0", "5/1", "5/0", "3/0", "3/1", "3/2", "4/4+gap", "5/4", "2/0",
       "2/1", "2/2+gap")  # fmt: skip
GRID = np.array([[p / 2, n / 2] for p in range(11) for n in range(11)])


def test_the_swap_rule():
    kept, swapped = scoring.swap_by_scores(*GRID.T)
    for (e, c), stays, moves in zip(GRID, kept, swapped, strict=True):
        if c <= 4 and e >= c:
            assert (stays, moves) == (True, False)
        elif e <= 4 and e <= c:
            assert (stays, moves) == (False, True)
        else:
            assert (stays, moves) == (False, False)
            assert min(e, c) > 4
    p, n = np.where(swapped, GRID[:, 1], GRID[:, 0]), np.where(swapped, GRID[:, 0], GRID[:, 1])
    left = kept | swapped
    assert (n[left] <= 4).all()
    assert (n[left] <= p[left]).all()
    kept, swapped = scoring.swap_by_scores(np.array([3.0, np.nan, 1.0]), np.array([3.0, 1.0, np.nan]))
    assert kept.tolist() == [True, False, False]
    assert not swapped.any()


@pytest.mark.parametrize("name", ALL)
def test_curation_is_idempotent_and_monotone(name):
    lines = scoring.lines_of(name)
    p, n = GRID.T
    good = scoring.curated(p, n, lines)
    wanted = [a >= float(name[0]) and b <= float(name[2]) and (a != b or "+gap" not in name) for a, b in GRID]
    assert good.tolist() == wanted
    assert scoring.curated(p[good], n[good], lines).all()
    for other in (lines._replace(positive=lines.positive + 1), lines._replace(negative=lines.negative - 1)):
        assert (scoring.curated(p, n, other) <= good).all()
    if lines.gap:
        assert not scoring.curated(p, p, lines).any()
    assert not scoring.curated(np.array([np.nan, 5.0]), np.array([0.0, np.nan]), lines).any()


def test_lines():
    assert scoring.lines_of("3/3+gap") == (3.0, 3.0, True)
    assert scoring.lines_of("3.5/2") == (3.5, 2.0, False)
    assert scoring.lines_of(None) is None
    for wrong in ("3", "6/2", "3/3+", "a/b", "", "3/3 gap"):
        with pytest.raises(InputError, match="'curation' is two lines from 0 to 5"):
            scoring.lines_of(wrong)


@pytest.mark.parametrize(("answer", "score"), [("4.2", 4.2), ("3", 3.0), (" 0.0 ", 0.0), ("5", 5.0), ("5.7", 5.0)])
def test_scores_that_are_told(answer, score):
    assert scoring.parsed_score(answer) == score


@pytest.mark.parametrize("answer", ["6", "6.1", "4.25", "4.", ".5", "-1", "4/5", "about 3", "3 4", "", "ten", "1e0"])
def test_other_answers_are_none(answer):
    assert math.isnan(scoring.parsed_score(answer))


def test_partners_of_documents():
    documents = np.array([0, 0, 0, 1, 1, 2, -1, 3, 3])
    domains = np.array([5, 5, 5, 5, 5, 7, 5, -1, -1])
    rng, seen = np.random.default_rng(0), [(set(), set()) for _ in documents]
    for _ in range(300):
        for one, positive, negative in zip(seen, *t.document_partners(documents, domains, rng), strict=True):
            one[0].add(int(positive))
            one[1].add(int(negative))
    everyone = {0, 1, 2, 3, 4, 5, 7, 8}
    for row, (positives, negatives) in enumerate(seen):
        own = {k for k in everyone if documents[k] == documents[row]}
        if documents[row] < 0:
            assert positives == negatives == {-1}
            continue
        assert positives == (own - {row} or {-1})
        near = {k for k in everyone - own if domains[k] == domains[row] >= 0}
        assert negatives == (near or everyone - own)
    alone = t.document_partners(np.array([4, 4]), None, rng)
    assert alone[0].tolist() == [1, 0]
    assert alone[1].tolist() == [-1, -1]


def made(*rows):
    return t.Triplets.of(*zip(*rows, strict=True))


def test_triplets_of_texts():
    found = made(("a", "b", "A"), ("a", "", "b"), ("c", " ", ""))
    assert found.places.tolist() == [[0, 0, 1], [2, -1, -1], [3, 2, -1]]
    assert found.whole.tolist() == [False, False, False], "the negative says what the anchor says"
    assert made(("a", "b", "c"), ("a", "b", "B "), ("a", "A", "b")).whole.tolist() == [True, False, False]
    assert found.contents().tolist() == [0, 1, 2, 0]
    moved = found.swapped(np.array([True, False, False]))
    assert moved.places[:, 0].tolist() == [0, 3, 2]
    assert moved.places[:, 1:].tolist() == found.places[:, 1:].tolist()
    known = replace(found, documents=np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]))
    assert known.swapped(np.array([True, False, False])).documents.tolist() == [[1, 2, 3], [7, 5, 6], [4, 8, 9]]


def test_what_is_kept_and_told():
    rows = [(f"s{k}", f"e{k}", f"c{k}") for k in range(7)]
    triplets, nan = made(*rows[:6], ("s6", "", "c6")), np.nan
    scores = np.array([[4, 1], [1, 4], [5, 4.5], [3, 3], [nan, 1], [2, 1], [4, 1]])
    everyone = np.arange(7)
    found = scoring.refined(triplets, everyone, scores, True, scoring.lines_of("3/3+gap"))
    assert found.rows.tolist() == [0, 1]
    names = ("incomplete", "unscored", "swapped", "both_similar", "curated_away", "kept")
    assert [found.told[name] for name in names] == [1, 1, 1, 1, 2, 2]
    assert [found.triplets.texts[k] for k in found.triplets.places[:, 1]] == ["s1", "c1", "e1"]
    assert scoring.refined(triplets, everyone, scores, True, None).rows.tolist() == [0, 1, 3, 5]
    assert scoring.refined(triplets, everyone, scores, False, None).rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert scoring.refined(triplets, everyone, scores, False, scoring.lines_of("3/4")).rows.tolist() == [0, 3]
    assert scoring.refined(triplets, everyone, None, True, scoring.lines_of("3/3+gap")).rows.tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    assert scoring.refined(triplets, everyone[4:], scores, True, None).rows.tolist() == [5]


def test_nothing_is_left():
    triplets, rows = made(*[(f"s{k}", f"e{k}", f"c{k}") for k in range(3)]), np.arange(3)
    lines = scoring.lines_of("3/3+gap")

    def refused(*scores, swap=True):
        with pytest.raises(InputError) as caught:
            scoring.refined(triplets, rows, np.array(scores), swap, lines)
        return str(caught.value)

    said = refused([2, 1], [2.4, 1.5], [1, 0])
    assert "Stage 2 drops all 3 triplets (positive line 3, negative line 3)" in said
    assert "the positives are scored 1 to 2.4, the negatives 0 to 1.5" in said
    assert "--curation 2/1 " in said
    scoring.refined(triplets, rows, np.array([[2, 1], [2.4, 1.5], [1, 0]]), True, scoring.lines_of("2/1"))
    assert "Leave out the gap rule: --curation 3/3" in refused([3, 3], [3, 3], [2, 2])
    assert "Stage 1 drops all 3 triplets" in refused([5, 4.5], [5, 5], [4.1, 4.2])
    assert "None of the 3 triplets has two scores" in refused([np.nan, 1], [1, np.nan], [np.nan, np.nan])
    with pytest.raises(InputError, match="None of the 2 training rows has a positive and a negative"):
        scoring.refined(made(("a", "", "b"), ("c", "d", "")), np.arange(2), None, True, None)


def table(path, *rows, head="anchor,positive,negative,sp,sn,second"):
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_columns(tmp_path):
    rows = [f"the cat sleeps {k},a cat is in bed {k},the cat runs {k},{k % 5}.5,1,the dog barks {k}" for k in range(9)]
    data = nearfar.data(table(tmp_path / "a.csv", *rows), roles={"negative": ["negative"]})
    found = t.of_columns(data)
    assert found.whole.all()
    assert [found.texts[k] for k in found.places[:, 2]] == ["the cat sleeps 2", "a cat is in bed 2", "the cat runs 2"]
    assert scoring.score_columns(data, "sp, sn") == ["sp", "sn"]
    assert scoring.score_columns(data, "auto") == []
    assert scoring.score_columns(data, str(tmp_path)) == []
    assert scoring.scores_in(data, ["sp", "sn"], np.arange(9))[7].tolist() == [2.5, 1.0]
    with pytest.raises(InputError, match="names 1 columns"):
        scoring.score_columns(data, "sp")
    with pytest.raises(InputError, match=r"'spp' no column of .*Did you mean 'sp'"):
        scoring.score_columns(data, "spp,sn")
    wrong = table(tmp_path / "b.csv", *rows[:3], rows[3].replace(",1,", ",high,"), *rows[4:])
    other = nearfar.data(wrong, roles={"negative": ["negative"]})
    with pytest.raises(InputError, match=r"row 5: the score 'high' in 'sn' is no number from 0 to 5"):
        scoring.scores_in(other, ["sp", "sn"], np.arange(9))
    with pytest.raises(InputError, match="has 2 columns of negatives"):
        t.of_columns(nearfar.data(tmp_path / "a.csv", roles={"negative": ["negative", "second"]}))
    with pytest.raises(InputError, match="lacks a column of negatives"):
        t.of_columns(nearfar.data(tmp_path / "a.csv", roles={"negative": None}))
    with pytest.raises(InputError, match="says of no sentence from which document it is"):
        t.of_documents(data, np.arange(9), 0)
