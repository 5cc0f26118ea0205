"""A winner only where the paired interval against everybody else is above zero; otherwise the reason in words."""

import pytest

from nearfar.errors import InputError
from nearfar.evaluation.comparison import compare_rows, difference, in_order, training_gain, winners_of
from nearfar.units import Metric


def row(slug, values, kind="method", failed=()):
    cells = [
        {"seed": seed, "primary": value, "status": "failed" if seed in failed else "done"}
        for seed, value in enumerate(values)
    ]
    return {"slug": slug, "label": slug.upper(), "kind": kind, "seeds": cells}


def test_a_clear_winner():
    result = compare_rows(
        [
            row("a", [0.50, 0.52, 0.51]),
            row("b", [0.40, 0.42, 0.40]),
            row("hog", [0.45], "reference"),
            row("chance", [0.01], "chance"),
        ],
        "b",
    )
    assert result["winner"] == "a"
    assert "ahead of every other row" in result["reason"]
    first, second, hog, _ = result["rows"]
    assert first["holds"] is True
    assert first["difference"]["mean"] == pytest.approx(0.10333, abs=1e-4)
    assert second["difference"] is None
    assert hog["interval"] is None
    assert hog["difference"]["interval"][0] > 0


def seeing(one):
    return one | {"supervised": True}


def test_rows_that_see_labels_are_ranked_apart():
    """The best of all saw labels: it wins among its own kind, and the other kind has a winner of its own."""
    rows = [
        row("a", [0.50, 0.52, 0.51]),
        row("b", [0.40, 0.42, 0.40]),
        seeing(row("c", [0.90, 0.92, 0.91])),
        seeing(row("d", [0.3, 0.31, 0.29])),
        row("hog", [0.45], "reference"),
    ]
    result = compare_rows(rows, "b")
    assert result["winner"] is None
    assert result["winners"] == ["a", "c"] == winners_of(result)
    assert "ranked apart" in result["reason"]
    assert "Without labels: A is ahead of every other row" in result["reason"]
    assert "With labels: C is ahead of every other row" in result["reason"]
    parts = in_order(result["rows"])
    assert {kind: [one["slug"] for one in part] for kind, part in parts.items()} == {
        "without labels": ["a", "hog", "b"],
        "with labels": ["c", "d"],
    }
    other = compare_rows(rows, "b", chosen=["b", "c"])
    assert other["winners"] == ["c"]
    assert "A has the best test scores, but validation data chose B" in other["reason"]
    plain = compare_rows([*rows, row("raw", [0.99], "reference")], "b")
    assert (plain["winner"], plain["winners"]) == ("raw", ["raw"])
    alone = compare_rows([one for one in rows if one["slug"] in ("c", "d", "hog")], "d")
    assert (alone["winner"], alone["winners"]) == ("c", ["c"]), "of one kind alone nothing is apart"
    assert winners_of({"winner": "a"}) == ["a"]
    assert winners_of({"winner": None}) == []


def test_no_winner_when_the_interval_spans_zero():
    result = compare_rows([row("a", [0.50, 0.52, 0.51]), row("b", [0.52, 0.49, 0.51])], "b")
    assert result["winner"] is None
    assert "not beyond doubt" in result["reason"]
    assert result["rows"][0]["holds"] == "undecided"


def test_a_reference_may_win():
    result = compare_rows(
        [row("hog", [0.6], "reference"), row("pixels", [0.3], "reference"), row("a", [0.50, 0.52, 0.51])], "a"
    )
    assert result["winner"] == "hog"


def test_rows_without_seeds_are_compared_as_they_are():
    result = compare_rows([row("hog", [0.6], "reference"), row("pixels", [0.3], "reference")], "pixels")
    assert result["winner"] == "hog"
    assert result["reason"].endswith("+30.0 points against PIXELS.")


def test_no_winner_from_one_seed_a_proxy_or_nothing():
    rows = [row("a", [0.9]), row("b", [0.1])]
    assert "one seed" in compare_rows(rows, "b")["reason"]
    many = [row("a", [0.9, 0.91, 0.9]), row("b", [0.1, 0.1, 0.11])]
    assert compare_rows(many, "b")["winner"] == "a"
    assert compare_rows(many, "b", proxy=True)["winner"] is None
    assert "proxy" in compare_rows(many, "b", proxy=True)["reason"]
    nothing = compare_rows([row("a", [0.9], failed=(0,))], "a")
    assert (nothing["winner"], nothing["rows"][0]["mean"]) == (None, None)


def test_failed_cells_are_not_paired():
    a, b = row("a", [0.5, 0.6, 0.7], failed=(1,)), row("b", [0.4, 0.0, 0.5])
    assert difference(a, b).n == 2
    assert difference(a, b).mean == pytest.approx(0.15)
    assert difference(row("a", [0.5], failed=(0,)), b) is None


def test_cells_without_a_finite_score_are_left_out():
    assert compare_rows([row("a", [0.5, float("nan"), None])], "a")["rows"][0]["mean"] == 0.5


def test_unknown_baseline():
    with pytest.raises(InputError, match="'x' is not among"):
        compare_rows([row("a", [1])], "x")


def test_what_training_gained_and_for_whom_it_did_not_pay():
    rows = [row("a", [0.6]), row("b", [0.4]), row("hog", [0.5], "reference"), row("pixels", [0.3], "reference"),
            row("untrained", [0.1], "untrained"), row("chance", [0.01], "chance")]  # fmt: skip
    found = training_gain(compare_rows(rows, "b")["rows"], Metric("hit@1"))
    assert found["gain"] == pytest.approx(0.1)
    assert [r["label"] for r in found["unpaid"]] == ["B"]
    assert found["words"] == (
        "Training gained 10.0 points: A against HOG, the best that needs none. No better than HOG: B."
    )
    lost = training_gain(compare_rows(rows[1:], "b")["rows"], Metric("hit@1"))
    assert lost["words"] == "Training did not pay: HOG, which needs none, is 10.0 points ahead of B."
    assert training_gain(compare_rows([rows[0], rows[5]], "a")["rows"]) is None


def test_of_an_error_less_is_a_gain():
    rows = [row("a", [0.2]), row("b", [0.6]), row("ridge", [0.5], "reference")]
    metric = Metric("error", unit="value", higher_is_better=False)
    found = training_gain(compare_rows(rows, "b", metric=metric)["rows"], metric)
    assert found["gain"] == pytest.approx(-0.3)
    assert [r["label"] for r in found["unpaid"]] == ["B"]
    assert found["words"].startswith("Training gained")
