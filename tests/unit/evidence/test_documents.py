"""Documents and passages: what is read, what is refused, and ids that stay as they are."""

import io
import shutil
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from tutelage.errors import ConfigError, DocumentError
from tutelage.evidence.documents import SourceDocument, is_path, read_documents
from tutelage.evidence.passages import CHARACTERS, passages_of


def passages_by_id(folder: Path, *patterns: str) -> dict[str, str]:
    documents = read_documents(patterns or ["."], folder)
    passages = [passage for document in documents for passage in passages_of(document)]
    assert len({passage.id for passage in passages}) == len(passages)
    return {passage.id: passage.text for passage in passages}


def test_a_folder_has_all_its_documents_read_each_once(library: Path) -> None:
    documents = read_documents(["library", "library/*.md", "library/physics/sound.md"], library.parent)
    assert len(documents) == 20
    assert [document.path for document in documents] == sorted(document.path for document in documents)
    assert documents[0].path == "library/apostrophes.txt"


def test_wildcards_and_files_name_documents(library: Path) -> None:
    assert [each.path for each in read_documents(["*.txt"], library)] == [
        "apostrophes.txt",
        "bicycles.txt",
        "french-revolution.txt",
    ]
    assert [each.path for each in read_documents(["**/*.txt"], library)][-1] == "physics/magnets.txt"
    assert [each.path for each in read_documents([str(library / "water.md")], library)] == ["water.md"]


def test_passages_are_what_stands_in_their_documents(library: Path) -> None:
    for document in read_documents(["."], library):
        passages = passages_of(document)
        assert all(document.text[each.start : each.end] == each.text for each in passages)
        assert all(0 < len(each.text) <= CHARACTERS for each in passages)
        left_out = document.text
        for each in reversed(passages):
            left_out = left_out[: each.start] + left_out[each.end :]
        assert all(line.startswith("# ") for line in left_out.split("\n") if line.strip()), "all but lone headings"


def test_ids_name_the_path_the_section_and_the_hash_of_the_text(library: Path) -> None:
    ids = list(passages_by_id(library, "water.md", "physics/magnets.txt", "light.pdf"))
    assert [each.partition("@")[0] for each in ids] == [
        "light.pdf#page-1/1",
        "light.pdf#page-2/1",
        "physics/magnets.txt#1",
        "physics/magnets.txt#2",
        "water.md#water/1",
        "water.md#boiling/1",
        "water.md#freezing/1",
        "water.md#evaporation/1",
    ]


def test_a_document_more_or_less_changes_no_other_s_ids(library: Path) -> None:
    before = passages_by_id(library)
    (library / "aaa.md").write_text("# Water\n\n## Boiling\n\nWater boils at 100 °C.")
    added = passages_by_id(library)
    assert before.items() < added.items()
    (library / "moon.md").unlink()
    assert {each for each in added if not each.startswith("moon.md#")} == passages_by_id(library).keys()


def test_a_text_that_has_changed_has_another_id(library: Path) -> None:
    before = passages_by_id(library)
    path = library / "water.md"
    path.write_text(path.read_text().replace("100 °C", "200 °C"))
    changed = set(before) ^ set(passages_by_id(library))
    assert {each.partition("@")[0] for each in changed} == {"water.md#boiling/1"}


def test_headings_in_code_are_none_and_same_headings_are_told_apart() -> None:
    text = "# A\n\none\n\n```\n# B\n```\n\n# A\n\ntwo\n\n## C\n\nthree"
    passages = passages_of(SourceDocument(path="x.md", kind="markdown", text=text))
    assert [each.id.partition("@")[0] for each in passages] == ["x.md#a/1", "x.md#a-2/1", "x.md#c/1"]
    assert passages[-1].heading == "A > C"


def test_long_sections_are_cut_where_paragraphs_and_sentences_end() -> None:
    text = "\n\n".join("This is a sentence of a long text. " * 12 for _ in range(5)).strip()
    passages = passages_of(SourceDocument(path="x.txt", kind="text", text=text))
    assert len(passages) > 3
    assert all(each.text.endswith(".") and each.text.startswith("This") for each in passages)


def test_a_text_without_any_break_is_cut_nevertheless() -> None:
    passages = passages_of(SourceDocument(path="x.txt", kind="text", text="x" * 5000))
    assert "".join(each.text for each in passages) == "x" * 5000


def test_line_breaks_of_windows_and_a_byte_order_mark_are_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_bytes(b"\xef\xbb\xbf# Title\r\n\r\nOne.\r\nTwo.")
    (document,) = read_documents(["x.md"], tmp_path)
    assert document.text == "# Title\n\nOne.\nTwo."


def encrypted(library: Path) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(library / "light.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


def scanned() -> bytes:
    writer = PdfWriter()
    writer.add_blank_page(width=600, height=800)
    written = io.BytesIO()
    writer.write(written)
    return written.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", "na\xefve".encode("latin-1"), "not in UTF-8 (line 1, byte 0xef)"),
        ("x.txt", "text".encode("utf-16"), "not in UTF-8"),
        ("x.md", b"\n \n", "is empty"),
        ("x.txt", b"a\0b", "NUL bytes"),
        ("x.docx", b"PK", "is of no kind that is read"),
        ("x.pdf", b"no PDF at all", "no PDF that can be read"),
        ("x.pdf", b"%PDF-1.4\n" + b"\xff" * 500, "no PDF that can be read"),
        ("x.pdf", scanned(), "no text in its 1 pages"),
        ("x.pdf", None, "is encrypted"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_file(
    library: Path, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    (tmp_path / name).write_bytes(encrypted(library) if content is None else content)
    with pytest.raises(DocumentError, match=name) as raised:
        read_documents([name], tmp_path)
    assert said in str(raised.value)


def test_a_pdf_that_is_encrypted_without_a_password_is_read(library: Path) -> None:
    writer = PdfWriter(clone_from=PdfReader(library / "light.pdf"))
    writer.encrypt("", owner_password="owner", algorithm="RC4-128")
    writer.write(library / "light.pdf")
    assert "The sky is blue" in read_documents(["light.pdf"], library)[0].text


def test_a_pattern_that_matches_nothing_is_an_error(library: Path) -> None:
    with pytest.raises(ConfigError, match=r"'\*\.markdown' matches no file"):
        read_documents(["*.md", "*.markdown"], library)
    shutil.rmtree(library / "physics")
    (library / "physics").mkdir()
    with pytest.raises(ConfigError, match="'physics' matches no file"):
        read_documents(["physics"], library)


@pytest.mark.parametrize(
    "entry",
    [
        *(
            "library/water.md",
            "Book of 1905.PDF",
            "notes.docx",
            "tides.rst",
            "My notes.docx",
            "library",
            "library/",
            ".",
        ),
        *(
            "library/*.md",
            "library/**",
            "my library/*",
            "./my library",
            "~/my library",
            "/srv/my library",
            "..",
            "tides",
        ),
    ],
)
def test_an_entry_of_a_brief_that_looks_like_a_path_is_one(entry: str) -> None:
    assert is_path(entry)


@pytest.mark.parametrize(
    "entry",
    [
        *("Water boils at 100 °C.", "See below.\nnotes.md", "Speed is measured in km/h.", "A mile is 1.6 km", "Light"
          " travels far, and/or fast", "It was 5 p.m", "水在海平面一百度沸腾。"),
    ],
)  # fmt: skip
def test_what_reads_like_a_sentence_is_the_text_itself(entry: str) -> None:
    assert not is_path(entry)


def test_a_pattern_that_cannot_be_looked_for_is_an_error(library: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be looked for"):
        read_documents(["x" * 300], library)
