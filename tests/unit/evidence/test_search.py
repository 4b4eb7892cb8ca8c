"""The search: what a claim finds, with words alone and with embeddings, from one thread and from many."""

import asyncio
import json
import logging
import threading
from pathlib import Path

import pytest
from langchain_core.embeddings import Embeddings

from tutelage.evidence.passages import Passage
from tutelage.evidence.search import PassageIndex, WordIndex, fused
from tutelage.testing.embeddings import vector

QUERIES = [json.loads(line) for line in (Path(__file__).parents[2] / "data" / "queries.jsonl").read_text().splitlines()]


class BagOfWords(Embeddings):
    """The simulated endpoint's embeddings, without the endpoint."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return vector(text)


def says(passage: Passage, query: dict[str, str]) -> bool:
    return passage.document == query["document"] and query["says"] in " ".join(passage.text.split())


async def recall(index: PassageIndex, k: int = 5) -> float:
    found = [any(says(each, query) for each in await index.search(query["query"], k)) for query in QUERIES]
    return sum(found) / len(QUERIES)


def test_each_query_has_its_passage(passages: list[Passage]) -> None:
    assert len(QUERIES) >= 60
    assert len({query["document"] for query in QUERIES}) == 20
    for query in QUERIES:
        assert sum(says(passage, query) for passage in passages) == 1, query


async def test_planted_contradictions_are_found_among_the_first_five(index: PassageIndex) -> None:
    assert await recall(index) >= 0.95


async def test_embeddings_beside_the_words_lose_nothing(passages: list[Passage]) -> None:
    assert await recall(await PassageIndex.of(passages, BagOfWords())) >= 0.95


async def test_words_are_found_in_their_other_forms(index: PassageIndex) -> None:
    found = await index.search("Frieren und gefütterte Ansätze", 3)
    assert "sauerteig.md" in {passage.document for passage in found}
    assert (await index.search("glacier's carving of valley", 1))[0].id.startswith("glaciers.md#traces")


async def test_numbers_are_words(index: PassageIndex) -> None:
    assert (await index.search("29.5", 1))[0].document == "moon.md"
    assert (await index.search("8/15", 1))[0].id.startswith("fractions.md#multiplying")


async def test_what_shares_no_word_is_not_found(index: PassageIndex) -> None:
    assert await index.search("Zzyzx qwrtp", 5) == []
    assert await index.search("the of and", 5) == []
    assert await index.search("", 5) == []


async def test_more_is_wanted_than_there_is(passages: list[Passage]) -> None:
    index = PassageIndex(WordIndex(passages[:2]))
    assert len(await index.search(passages[0].text, 50)) <= 2
    assert await PassageIndex(WordIndex([])).search("water", 5) == []


def test_threads_that_search_at_once_find_what_one_finds(passages: list[Passage]) -> None:
    index = WordIndex(passages)
    expected = [[each.id for each in index.search(query["query"], 5)] for query in QUERIES]
    found: dict[int, list[list[str]]] = {}

    def search(thread: int) -> None:
        found[thread] = [[each.id for each in index.search(query["query"], 5)] for query in QUERIES]

    threads = [threading.Thread(target=search, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == expected for number in range(8))


def test_ranks_are_fused_by_their_reciprocals(passages: list[Passage]) -> None:
    a, b, c = passages[:3]
    # b: 1/62 + 1/61; a: 1/61; c: 1/62
    assert fused([[a, b], [b, c]], 3) == [b, a, c]
    assert fused([[a, b], [b, c]], 1) == [b]


async def test_embeddings_find_what_shares_no_word(passages: list[Passage]) -> None:
    class Meanings(BagOfWords):
        def embed_query(self, text: str) -> list[float]:
            return vector(text.replace("Gletscher", "glaciers snow firn"))

    index = await PassageIndex.of(passages, Meanings())
    assert (await index.search("Gletscher", 1))[0].document == "glaciers.md"


def test_an_index_is_built_without_a_word(passages: list[Passage], caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("bm25s").setLevel(logging.DEBUG)
    WordIndex(passages)
    assert not caplog.records


async def test_many_dialogues_search_at_once(index: PassageIndex) -> None:
    found = await asyncio.gather(*(index.search(query["query"], 5) for query in QUERIES * 5))
    assert all(found)


@pytest.mark.parametrize(
    ("texts", "language"), [(["Der Ansatz ist fertig, wenn er aufgeht."], "german"), (["42"], "english")]
)
def test_the_language_is_that_of_the_common_words(texts: list[str], language: str) -> None:
    passages = [Passage(id=text, text=text, document="x", heading="", start=0, end=len(text)) for text in texts]
    assert WordIndex(passages).language == language
