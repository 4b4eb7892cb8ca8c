"""A library of twenty documents: those of tests/data, and a PDF that is made here."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tutelage.evidence.documents import read_documents
from tutelage.evidence.passages import Passage, passages_of
from tutelage.evidence.search import PassageIndex, WordIndex

DATA = Path(__file__).parents[2] / "data"
LIGHT = [
    [
        "Light",
        "In a vacuum light travels at about 300,000 kilometres per second. Nothing is faster.",
        "In glass light travels at about two thirds of that speed.",
        "The light of the Sun needs a little more than eight minutes to reach the Earth.",
    ],
    [
        "Colours",
        "A prism splits white light, because each colour is refracted by another angle.",
        "Blue light is refracted more strongly than red light.",
        "The sky is blue because air scatters blue light more than red.",
    ],
]


def pdf_of(pages: Sequence[Sequence[str]]) -> bytes:
    """A PDF whose pages have these lines."""
    first = 4
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        shown = "".join(f"({line}) Tj T* " for line in lines)
        stream = f"BT /F1 11 Tf 50 780 Td 14 TL {shown}ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 842] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {first + 2 * number + 1} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    body, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj\n{each}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF\n"
    return body + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}".encode()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    shutil.copytree(DATA / "library", folder)
    (folder / "light.pdf").write_bytes(pdf_of(LIGHT))
    return folder


@pytest.fixture
def passages(library: Path) -> list[Passage]:
    return [passage for document in read_documents(["."], library) for passage in passages_of(document)]


@pytest.fixture
def index(passages: list[Passage]) -> PassageIndex:
    return PassageIndex(WordIndex(passages))
