"""Kinds of words of code, and the four soft augmentations."""

import numpy as np
import pytest
import torch

from nearfar import encoders
from nearfar.encoders import code as code_module
from nearfar.encoders.code import KINDS, kinds_of, whole_strings, words_of
from nearfar.encoders.tokens import TokenStore, frame, ordinary
from nearfar.errors import InputError
from nearfar.views.code import SOFT, drawn_kind, softly

CODE = 'def add(a, b=2.5):\n    # the sum\n    return "x" + str(a) if b else None\n'


def said(code, language="python"):
    return [(code[a:b], kind) for a, b, kind in words_of(code, language)[0]]


def test_python_is_read_by_its_own_tokenizer():
    found = said(CODE)
    assert found[:4] == [("def", "keyword"), ("add", "identifier"), ("(", "separator"), ("a", "identifier")]
    assert {("2.5", "number"), ("# the sum", "comment"), ('"x"', "string"), ("+", "operator"), ("None", "keyword"),
            ("=", "operator"), (",", "separator"), ("return", "keyword")} <= set(found)  # fmt: skip
    assert all(kind in KINDS for _, kind in found)


@pytest.mark.parametrize("before", ["s = 'a\x0cb'\n", "\x0c", "# \x85 c\n", "x = '\u2028'\r\n", "s = '\x1c\x1e\x0b'\r"])
def test_lines_of_python_end_where_its_tokenizer_ends_them(before):
    found = said(f"{before}yy = 22\nzz = 1\n")
    assert found[-6:] == [("yy", "identifier"), ("=", "operator"), ("22", "number"),
                          ("zz", "identifier"), ("=", "operator"), ("1", "number")]  # fmt: skip


def test_a_formatted_string_is_one_word():
    code = 'f\'a{b:>{w}}c\' + rf"""x\n{f\'{y}\'}"""\n'
    assert said(code) == [("f'a{b:>{w}}c'", "string"), ("+", "operator"), ('rf"""x\n{f\'{y}\'}"""', "string")]
    pieces = [("NAME", "x", (1, 0), (1, 1)), ("FSTRING_START", "f'", (1, 2), (1, 4)), ("OP", "{", (1, 4), (1, 5)),
              ("TSTRING_START", 't"', (1, 5), (1, 7)), ("TSTRING_MIDDLE", "b", (1, 7), (1, 8)),
              ("TSTRING_END", '"', (1, 8), (1, 9)), ("OP", "}", (1, 9), (1, 10)),
              ("FSTRING_END", "'", (1, 10), (1, 11)), ("STRING", "'z'", (1, 12), (1, 15))]  # fmt: skip
    found = list(whole_strings(pieces))
    assert [(name, start, end) for name, _, start, end in found] == [
        ("NAME", (1, 0), (1, 1)), ("STRING", (1, 2), (1, 11)), ("STRING", (1, 12), (1, 15))]  # fmt: skip


@pytest.mark.parametrize("code", ["def broken(:\n  'x", "if (a) { return b; }"])
def test_code_that_python_refuses_is_read_all_the_same(code):
    assert ("(", "separator") in said(code)


def test_a_language_without_a_grammar():
    code = 'public int add(int a) { // sum\n  return a + 0x1F - "a\\"b"; /* more\n lines */ }'
    assert words_of(code, "fantasy")[1] == "a general lexer"
    found = said(code, "fantasy")
    assert {("public", "keyword"), ("int", "keyword"), ("add", "identifier"), ("// sum", "comment"), ("+", "operator"),
            ("0x1F", "number"), ('"a\\"b"', "string"), ("/* more\n lines */", "comment"),
            (";", "separator")} <= set(found)  # fmt: skip


OF_LANGUAGES = {
    "java": ('public int add(int ä) { // s\n String x = "a\\"b"; return this.ä + 0x1F; }',
             {"keyword": ["public", "int", "this"], "identifier": ["add", "ä", "String"], "comment": ["// s"],
              "string": ['"a\\"b"'], "number": ["0x1F"], "operator": ["+", "="], "separator": [";", "."]}),
    "javascript": ("function f(a) { let x = `a${b}c`; return /ab+/g && 1.5 }",
                   {"keyword": ["function", "let"], "string": ["`a${b}c`", "/ab+/g"], "number": ["1.5"]}),
    "typescript": ("const f = (a: number): string => `x${a}`",
                   {"keyword": ["const", "number", "string"], "operator": ["=>"], "identifier": ["f", "a"]}),
    "go": ("func add(a int) error { x := `raw`; return nil // c\n}",
           {"keyword": ["func", "nil"], "identifier": ["error"], "operator": [":="], "string": ["`raw`"]}),
    "ruby": ('def add(a)\n  return "#{a} b" unless @b # c\nend',
             {"keyword": ["def", "unless", "end"], "string": ['"#{a} b"'], "comment": ["# c"], "identifier": ["@b"]}),
    "php": ('function add($a) { return $a . "x $b" . null; }',
            {"keyword": ["function", "null"], "identifier": ["add"], "string": ['"x $b"']}),
    "c": ("int f(int a) { return a->b + 'c' + 1.0f; }",
          {"keyword": ["int"], "operator": ["->"], "string": ["'c'"], "number": ["1.0f"], "identifier": ["b"]}),
    "cpp": ("auto f(T const& a) -> int { return std::move(a); }",
            {"keyword": ["auto", "const"], "identifier": ["std", "move"], "operator": ["->", "::"]}),
    "rust": ("pub fn add(a: &str) -> i32 { 1_000u32 // c\n}",
             {"keyword": ["pub", "fn", "str"], "number": ["1_000u32"], "comment": ["// c"]}),
}  # fmt: skip


@pytest.mark.parametrize("language", OF_LANGUAGES)
def test_other_languages(language):
    code, wanted = OF_LANGUAGES[language]
    assert words_of(code, language)[1] == "tree-sitter"
    found = said(code, language)
    assert {(word, kind) for kind, words in wanted.items() for word in words} <= set(found), found
    ends = [end for _, end, _ in words_of(code, language)[0]]
    starts = [start for start, _, _ in words_of(code, language)[0]]
    assert all(a <= b for a, b in zip(ends, starts[1:], strict=False)), "words do not overlap"


def test_without_the_grammar_a_general_lexer_reads(monkeypatch):
    monkeypatch.setattr(code_module, "find_spec", lambda name: None)
    code_module._parser.cache_clear()
    assert words_of("int f() {}", "java")[1] == "a general lexer"
    code_module._parser.cache_clear()


@pytest.mark.parametrize("language", ["python", "java", "php", "fantasy"])
@pytest.mark.parametrize("code", ["", "\n\n", "\x00", "'unfinished", "((((", "é\ud800", "\u2028x = 1", "# only\r\n"])
def test_no_code_is_refused(code, language):
    for start, end, kind in words_of(code, language)[0]:
        assert 0 <= start < end <= len(code)
        assert kind in KINDS


def test_parts_of_a_word_have_its_kind():
    spans = [(0, 3), (3, 5), (5, 7), (7, 8), (8, 9), (9, 9)]  # def | " a" | "dd" | ( | a | nothing
    assert [KINDS[k] if k >= 0 else "" for k in kinds_of(spans, words_of(CODE)[0])] == [
        "keyword", "identifier", "identifier", "separator", "identifier", ""]  # fmt: skip


@pytest.fixture(scope="module", params=["small", "tiny"])
def encoder(request):
    torch.manual_seed(0)
    return encoders.text(request.param, texts=[CODE] * 5, vocabulary=120)


def test_tokens_are_added_to_the_vocabulary(encoder):
    before, sentence = encoder.special.size, encoder.encode_ids(["return add"])
    with torch.no_grad():
        was = encoder.eval()(encoder.prepare([CODE]))
    ids = encoder.add_tokens(["<|keyword|>", "<|string|>"])
    assert ids == [encoder.special.size - 2, encoder.special.size - 1]
    assert encoder.special.size in (before, before + 2)
    assert encoder.add_tokens(["<|string|>"]) == ids[1:], "what is there stays"
    assert encoder.encode_ids(["return add"]) == sentence
    assert encoder.encode_ids(["<|string|>"]) == [[ids[1]]]
    torch.testing.assert_close(encoder(encoder.prepare([CODE])).detach(), was)
    assert encoder(encoder.prepare(["<|string|>"])).isfinite().all()


def test_spans_cover_what_each_token_stands_for(encoder):
    ids, spans = encoder.encode_spans([CODE, ""])
    assert ids == encoder.encode_ids([CODE, ""])
    assert "".join(CODE[a:b] for a, b in spans[0]).replace(" ", "").replace("\n", "") == CODE.replace(" ", "").replace(
        "\n", "")  # fmt: skip


def view(encoder):
    ids, spans = encoder.encode_spans([CODE, "x = 1"])
    kinds = [kinds_of(s, words_of(c)[0]) for s, c in zip(spans, [CODE, "x = 1"], strict=True)]
    x = frame(TokenStore(ids, 500, kinds).read(np.arange(2)), encoder.special)
    return x, ordinary(x, encoder.special), torch.tensor(encoder.add_tokens([f"<|{k}|>" for k in KINDS]))


def soften(encoder, name, rate, seed=0):
    x, places, kind_ids = view(encoder)
    make = torch.Generator().manual_seed(seed)
    found = softly(name, x.ids, x.kinds, places, kind_ids=kind_ids, mask_id=encoder.special.mask,
                   size=encoder.special.size, rate=rate, generator=make)  # fmt: skip
    return x, places, kind_ids, found


@pytest.mark.parametrize("name", SOFT)
def test_an_augmentation(name, encoder):
    seen = 0
    for seed in range(20):
        x, places, kind_ids, found = soften(encoder, name, 1.0, seed)
        moved = found != x.ids
        seen += int(moved.sum())
        assert not moved[~places].any(), "special tokens and padding stay"
        assert not moved[x.kinds < 0].any() or name == "dynamic-masking"
        by_kind = kind_ids[x.kinds.clamp(min=0)]
        if name == "dynamic-replacement":
            assert (found[moved] == by_kind[moved]).all()
        if name == "replacement-of-kind":
            assert len(found[moved].unique()) <= 1
            assert len(x.kinds[moved].unique()) <= 1
            assert (found[moved] == by_kind[moved]).all()
        if name == "masking-of-kind":
            assert (found[moved] == encoder.special.mask).all()
            assert len(x.kinds[moved].unique()) <= 1
    assert seen > 40
    assert torch.equal(soften(encoder, name, 0.0)[-1], x.ids)


def test_how_many_change(encoder):
    shares = []
    for seed in range(300):
        x, places, _, found = soften(encoder, "dynamic-replacement", 0.5, seed)
        shares.append((found != x.ids)[places].float().mean())
    assert torch.stack(shares).mean().item() == pytest.approx(0.4, abs=0.02)


def test_every_kind_is_drawn_and_texts_have_none(encoder):
    x, places, kind_ids = view(encoder)
    drawn = {int(drawn_kind(x.kinds, torch.Generator().manual_seed(k))) for k in range(80)}
    assert drawn == {int(k) for k in x.kinds.unique() if k >= 0}
    assert int(drawn_kind(torch.full((2, 3), -1), torch.Generator())) == -1
    with pytest.raises(InputError, match="needs the kinds of the tokens"):
        softly("dynamic-replacement", x.ids, None, places, kind_ids=kind_ids, mask_id=1, size=9, rate=0.1,
               generator=torch.Generator())  # fmt: skip
    with pytest.raises(InputError, match="nonsense"):
        softly("nonsense", x.ids, x.kinds, places, kind_ids=kind_ids, mask_id=1, size=9, rate=0.1,  # pyright: ignore
               generator=torch.Generator())  # fmt: skip
