"""Translations on this machine: the lists of apt and the catalogues of gettext, as small trees of files."""

import gzip
import struct

import numpy as np
import pytest

import nearfar
from nearfar import evaluation
from nearfar.errors import InputError
from nearfar.sources import debian
from nearfar.sources.sets.catalogues import messages

PACKAGES = """Package: lamp
Source: lighting (1.2-3)
Maintainer: A Person <person@example.org>
Description-md5: 11
Depends: libc6,
 bulb

Package: bulb
Source: lighting
Description-md5: 22

Package: chair
Description-md5: 33
"""
ENGLISH = """Package: lamp
Description-md5: 11
Description-en: bright lamp for dark rooms
 The lamp stands on a table and
 shines when it is switched on.
 .
 It has:
  * one bulb
  * one switch

Package: bulb
Description-md5: 22
Description-en: small bulb
 The bulb belongs into the lamp
 on the table.

Package: chair
Description-md5: 33
Description-en: wooden chair with four legs
"""
GERMAN = """Package: lamp
Description-md5: 11
Description-de: helle Lampe für dunkle Räume
 Die Lampe steht auf einem Tisch und leuchtet,
 wenn sie eingeschaltet ist.
 .
 Sie hat:
  * eine Birne

Package: bulb
Description-md5: 22
Description-de: kleine Birne
 Die Birne gehört in die Lampe auf dem Tisch.

Package: chair
Description-md5: old
Description-de: ein Stuhl von früher
"""
BRAZILIAN = """Package: lamp
Description-md5: 11
Description-pt_BR: lâmpada clara para salas escuras
 Um parágrafo.
 .
 Outro parágrafo.
 .
 Mais um.

Package: chair
Description-md5: 33
Description-pt_BR: wooden chair with four legs
"""


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "lists"
    folder.mkdir()
    start = "mirror_debian_dists_stable_main"
    (folder / f"{start}_binary-amd64_Packages").write_text(PACKAGES)
    (folder / f"{start}_i18n_Translation-en").write_text(ENGLISH)
    (folder / f"{start}_i18n_Translation-pt%5fBR").write_text(BRAZILIAN)
    with gzip.open(folder / f"{start}_i18n_Translation-de.gz", "wt", encoding="utf-8") as file:
        file.write(GERMAN)
    monkeypatch.setenv("NEARFAR_APT_LISTS", str(folder))
    return folder


def test_descriptions(index, tmp_path):
    data = nearfar.data("descriptions", cache=tmp_path / "cache")
    found = {tuple(data.values(c, [i])[0] for c in ("language", "text", "text_b", "source")) for i in range(len(data))}
    assert found == {
        ("de", "bright lamp for dark rooms", "helle Lampe für dunkle Räume", "lighting"),
        (
            "de",
            "The lamp stands on a table and shines when it is switched on.",
            "Die Lampe steht auf einem Tisch und leuchtet, wenn sie eingeschaltet ist.",
            "lighting",
        ),
        (
            "de",
            "The bulb belongs into the lamp on the table.",
            "Die Birne gehört in die Lampe auf dem Tisch.",
            "lighting",
        ),
        ("pt_BR", "bright lamp for dark rooms", "lâmpada clara para salas escuras", "lighting"),
    }
    assert data.domain_names == ["de", "pt_BR"]
    assert len(set(data.keys)) == 4
    assert "Person" not in repr([data.values(name) for name in data.table.column_names])
    assert nearfar.data("descriptions", cache=tmp_path / "cache").hash == data.hash
    assert len(nearfar.data("descriptions", limit=1, cache=tmp_path / "cache")) == 1


def test_the_maintainer_is_not_read(index):
    fields = {name for file in debian.lists(index).packages for one in debian.stanzas(file) for name in one}
    assert fields == {"Package", "Source", "Description-md5"}


def test_without_lists_the_message_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("NEARFAR_APT_LISTS", str(tmp_path / "nowhere"))
    with pytest.raises(
        InputError, match=r"There are no translated package descriptions.*apt-get -o Dir::State::lists="
    ):
        nearfar.data("descriptions", cache=tmp_path / "cache")
    monkeypatch.delenv("NEARFAR_APT_LISTS")
    monkeypatch.setattr(debian, "SYSTEM", tmp_path / "neither")
    with pytest.raises(InputError, match=r"apt or .*neither.*Acquire::Languages=en,de,"):
        debian.lists(tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no field here\n", "there is no field in 'no field here'"), (b"Package: \xff\n", "can't decode")],
)
def test_a_damaged_index_is_named(index, tmp_path, content, said):
    (path,) = index.glob("*Translation-en")
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"Translation-en cannot be read as an index of apt: .*{said}"):
        nearfar.data("descriptions", cache=tmp_path / "cache")


def test_a_cut_gzip_and_a_packed_file_without_apt(index, tmp_path, monkeypatch):
    (path,) = index.glob("*Translation-de.gz")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"Translation-de.gz cannot be read as an index of apt"):
        nearfar.data("descriptions", cache=tmp_path / "cache")
    path.rename(path.with_suffix(".lz4"))
    monkeypatch.setattr(debian, "HELPER", tmp_path / "nothing")
    with pytest.raises(InputError, match="is packed by lz4"):
        nearfar.data("descriptions", cache=tmp_path / "cache")


def test_only_short_texts_are_no_set(index, tmp_path):
    for path in index.glob("*Translation-*"):
        if "-en" not in path.name:
            path.unlink()
    (index / "a_i18n_Translation-fr").write_text("Package: bulb\nDescription-md5: 22\nDescription-fr: ampoule\n")
    with pytest.raises(InputError, match="no translation of four words"):
        nearfar.data("descriptions", cache=tmp_path / "cache")


# -- catalogues --------------------------------------------------------------------------------------------------------


def mo(path, texts, charset="UTF-8"):
    """A compiled catalogue, as msgfmt writes it."""
    texts = {"": f"Content-Type: text/plain; charset={charset}\n", **texts}
    keys = sorted(texts)
    ids, strings = ([text.encode("utf-8") for text in part] for part in (keys, [texts[k] for k in keys]))
    start = 28 + 16 * len(keys)
    tables, blob = [], b""
    for part in (ids, strings):
        for text in part:
            tables += [len(text), start + len(blob)]
            blob += text + b"\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack("<7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0)
    path.write_bytes(head + struct.pack(f"<{len(tables)}I", *tables) + blob)


def numbered(count, word):
    return {f"The file number {i} cannot be opened": f"{word} {i} kann nicht geöffnet werden" for i in range(count)}


def test_what_a_message_is(tmp_path):
    path = tmp_path / "de" / "LC_MESSAGES" / "tool.mo"
    mo(
        path,
        {
            "Open the _File %s now": "Jetzt die _Datei %s öffnen",
            "menu\x04Close all of the windows": "Alle Fenster schließen",
            "Too short": "Zu kurz",
            "This one stays as it is": "This one stays as it is",
            "This one has no translation": "",
            "One of the files is bad\0Some of the files are bad": "Eine Datei ist schlecht\0Dateien sind schlecht",
        },
    )
    found = {(one.text, one.text_b) for one in messages(path)}
    assert found == {
        ("Open the _File %s now", "Jetzt die _Datei %s öffnen"),
        ("Close all of the windows", "Alle Fenster schließen"),
    }
    (one,) = {(one.language, one.program) for one in messages(path)}
    assert one == ("de", "tool")


@pytest.mark.parametrize("content", [b"", b"no catalogue", b"\xde\x12\x04\x95" + b"\xff" * 40])
def test_a_damaged_catalogue_holds_nothing(content, tmp_path):
    path = tmp_path / "bad.mo"
    path.write_bytes(content)
    assert list(messages(path)) == []


@pytest.fixture
def catalogues(tmp_path, monkeypatch):
    root = tmp_path / "locale"
    mo(root / "de" / "LC_MESSAGES" / "a.mo", numbered(150, "Datei"))
    mo(root / "de" / "LC_MESSAGES" / "b.mo", numbered(20, "Nochmals Datei"))
    mo(root / "fr" / "LC_MESSAGES" / "a.mo", numbered(120, "Fichier"))
    mo(root / "en_GB" / "LC_MESSAGES" / "a.mo", numbered(150, "File"))
    mo(root / "eo" / "LC_MESSAGES" / "a.mo", numbered(30, "Dosiero"))
    (root / "fr" / "LC_MESSAGES" / "broken.mo").write_bytes(b"no catalogue")
    monkeypatch.setenv("NEARFAR_CATALOGUES", str(root))
    return root


def test_catalogues(catalogues, tmp_path):
    data = nearfar.data("catalogues", cache=tmp_path / "cache")
    assert data.domain_names == ["de", "fr"]
    assert np.bincount(data.domains).tolist() == [150, 120]
    assert not any(text.startswith("Nochmals") for text in data.texts("text_b"))
    assert data.leaks() == 0
    assert data.shared() == []
    assert nearfar.data("catalogues", cache=tmp_path / "cache").hash == data.hash
    few = nearfar.data("catalogues", limit=60, cache=tmp_path / "cache")
    assert len(few) == 60


def test_bitext_is_measured_for_each_language(catalogues, tmp_path):
    data = nearfar.data("catalogues", cache=tmp_path / "cache")
    task = evaluation.task_for(data, "bitext")
    chance, tfidf = (one.evaluate("test") for one in evaluation.references(data, task)[:2])
    assert set(tfidf.domains) == {"de", "fr"}
    assert tfidf.primary == 1  # the number stands in both languages
    assert chance.primary < 0.1


def test_without_catalogues_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NEARFAR_CATALOGUES", str(tmp_path))
    with pytest.raises(InputError, match=r"There are no catalogues of messages.*apt-get install iso-codes"):
        nearfar.data("catalogues", cache=tmp_path / "cache")
