"""The encoder of dialogues: what is added to each token, what is cut, and how it is saved."""

import pytest
import torch

from nearfar import encoders
from nearfar.encoders.dialogue import DialogueText, places_of, value_spans
from nearfar.encoders.tokens import frame, pad
from nearfar.errors import InputError
from tests.encoders.transformer_folder import write_bert

TEXTS = ["user: a cat sat on the mat\nsystem: the dog ran\nuser: a mat", "a dog fell", "system: the cat", ""]


@pytest.fixture(params=["tiny", "bert"])
def encoder(request, tmp_path):
    torch.manual_seed(0)
    if request.param == "bert":
        made = encoders.text(write_bert(tmp_path / "bert"), dropout=0.0)
    else:
        made = encoders.text("tiny", texts=TEXTS * 3, vocabulary=80, dropout=0.0)
    return DialogueText(made, turns=3, utterance=4, length=24).eval()


def naive(ids, marks):
    """Role, turn and place of each token of one row, -1 outside of utterances."""
    starts, ends = marks[::2], marks[1::2]
    total, seen, role, place, rows = sum(i in starts for i in ids), 0, -1, -1, []
    for i in ids:
        if i in starts:
            seen, role, place = seen + 1, starts.index(i), 0
        rows.append((role, total - seen, place) if role >= 0 else (-1, -1, -1))
        place += 1
        if i in ends:
            role = -1
    return rows


def test_places_follow_from_the_marks(encoder):
    x = encoder.prepare(TEXTS)
    found = encoder.places(x)
    for row in range(len(TEXTS)):
        kept = x.mask[row]
        expected = naive(x.ids[row][kept].tolist(), encoder.marks)
        assert [tuple(part[row][k].item() for part in found) for k in range(int(kept.sum()))] == expected
        assert all(bool((part[row][~kept] == -1).all()) for part in found)
    assert found.role[0].max() == 1
    assert found.turn[0].max() == 2
    assert found.role[0, 0] == -1, "[CLS] has none"


def test_roles_turns_and_places_reach_the_vectors(encoder):
    """Zero at first: the encoder's own. Then each table changes the tokens that it is of, and no others."""
    x = encoder.prepare(TEXTS)
    plain = encoder.encoder.embedded(x).vectors
    torch.testing.assert_close(encoder.embedded(x).vectors, plain)
    torch.testing.assert_close(encoder(x), encoder.encoder(x))
    where = encoder.places(x)
    for table, at, value in (
        (encoder.of_role, where.role, 1),
        (encoder.of_turn, where.turn, 2),
        (encoder.of_place, where.place, 3),
    ):
        with torch.no_grad():
            table.weight[value] += 1
        changed = (encoder.embedded(x).vectors - plain).abs().sum(-1) > 0
        assert torch.equal(changed, at == value)
        assert bool(changed.any())
        with torch.no_grad():
            table.weight[value] -= 1
    assert not torch.allclose(encoder(encoder.prepare(["user: a cat"])), encoder(encoder.prepare(["system: a cat"])))


def words_of(encoder, ids):
    return [i for i in ids if i not in encoder.marks]


def test_what_is_too_long_is_cut(encoder):
    """At most three utterances, the last ones; the first four tokens of each; in all what there is room for, the last
    ones, and an utterance that would be empty is left out."""
    inner = encoder.encoder.encode_ids(["a cat sat on the mat", "the dog", "a mat", "ran"])
    text = "user: ran\nsystem: a cat sat on the mat\nuser: the dog\nsystem: a mat"
    (ids,) = encoder.encode_ids([text])
    assert words_of(encoder, ids) == [*inner[0][:4], *inner[1], *inner[2]]
    tail = [encoder.marks[0], *inner[1], encoder.marks[1], encoder.marks[2], *inner[2], encoder.marks[3]]
    for spare, kept in ((2, []), (3, inner[0][3:4]), (5, inner[0][1:4])):
        encoder.special = encoder.special._replace(length=len(tail) + spare + encoder.special.frame)
        (ids,) = encoder.encode_ids([text])
        assert ids == [*([encoder.marks[2], *kept, encoder.marks[3]] if kept else []), *tail]
    (ids,) = encoder.encode_ids(["a <|/user|> cat"])
    assert ids.count(encoder.marks[1]) == 1, "marks in a text are words of nobody"


def test_values_are_found_as_words():
    assert value_spans("North of the north, northern NORTH", ["north", ""]) == [(0, 5), (13, 18), (29, 34)]
    assert value_spans("a (b) c.d", ["(b)", "c.d", "a ("]) == [(2, 5), (6, 9)]


def test_tokens_of_values_are_marked(encoder):
    ((ids, kinds),) = encoder.marked(["user: a dog\nsystem: the cat on a dog"], [["the cat", "dog"]])
    assert len(ids) == len(kinds)
    hit = [i for i, kind in zip(ids, kinds, strict=True) if kind == 0]
    dog, cat = encoder.encoder.encode_ids(["dog", "the cat"])
    assert hit[: len(dog)] == dog
    assert [i for i in hit if i in cat] == cat
    assert all(kind == -1 for i, kind in zip(ids, kinds, strict=True) if i in encoder.marks)
    assert encoder.marked(["user: a dog"], [[]])[0][1] == [-1] * len(encoder.encode_ids(["user: a dog"])[0])


def test_it_is_saved_and_restored(encoder, tmp_path):
    with torch.no_grad():
        for table in (encoder.of_role, encoder.of_turn, encoder.of_place):
            table.weight.normal_()
    (tmp_path / "saved").mkdir()
    encoder.save_files(tmp_path / "saved")
    again = encoders.from_config(encoder.config(), tmp_path / "saved").eval()
    assert again.marks == encoder.marks
    again.load_state_dict(encoder.state_dict())
    x = encoder.prepare(TEXTS)
    assert torch.equal(again.prepare(TEXTS).ids, x.ids)
    torch.testing.assert_close(again(x), encoder(x))


def test_a_row_without_marks_has_no_places():
    ids, mask = torch.tensor([[7, 8, 9, 0]]), torch.tensor([[True, True, True, False]])
    assert all(bool((part == -1).all()) for part in places_of(ids, mask, (1, 2, 3, 4)))


def test_there_is_no_room_for_words():
    made = encoders.text("tiny", texts=TEXTS, vocabulary=80, length=4)
    with pytest.raises(InputError, match="--text-length"):
        DialogueText(made)


def test_framing_keeps_what_was_cut(encoder):
    x = frame(pad(encoder.encode_ids(["user: a cat\n" * 20]), encoder.special.pad), encoder.special)
    assert int(x.mask.sum()) <= encoder.special.length
