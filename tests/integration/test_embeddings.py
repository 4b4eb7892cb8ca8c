"""Embeddings over HTTP, from the simulated endpoint: LangChain's interface, batches, replicas, and errors."""

import pytest

from tutelage.errors import EndpointRefused, ModelNotServed
from tutelage.serving.embeddings import BATCH, EmbeddingsVLLM
from tutelage.testing import Fault, SimulatedEndpoint
from tutelage.testing.embeddings import vector

TEXTS = [f"sentence number {number} about {topic}" for number in range(BATCH) for topic in ("ice", "iron", "gold")]


async def test_each_text_has_its_vector_in_the_order_of_the_texts() -> None:
    with SimulatedEndpoint(model="tiny") as endpoint:
        async with EmbeddingsVLLM(model="tiny", url=endpoint.url) as embeddings:
            assert await embeddings.aembed_documents(TEXTS) == [pytest.approx(vector(text)) for text in TEXTS]
            assert await embeddings.aembed_query("ice") == pytest.approx(vector("ice"))
            assert await embeddings.aembed_documents([]) == []
        requests = endpoint.requests()
    assert [len(each["body"]["input"]) for each in requests] == [BATCH] * 3 + [1]
    assert {each["api"] for each in requests} == {"embeddings"}


def test_without_an_event_loop() -> None:
    with SimulatedEndpoint(model="tiny") as endpoint:
        embeddings = EmbeddingsVLLM(model="tiny", url=endpoint.url)
        assert embeddings.embed_documents(["ice"])[0] == pytest.approx(embeddings.embed_query("ice"))


async def test_where_an_event_loop_runs_it_says_what_to_use() -> None:
    with pytest.raises(RuntimeError, match="await embeddings"):
        EmbeddingsVLLM(model="tiny", url="http://127.0.0.1:1/v1").embed_query("ice")


async def test_what_can_heal_is_tried_again() -> None:
    with SimulatedEndpoint(model="tiny", faults=[Fault(kind="status", status=503, times=1)]) as endpoint:
        async with EmbeddingsVLLM(model="tiny", url=endpoint.url) as embeddings:
            assert await embeddings.aembed_query("ice")
        assert len(endpoint.requests()) == 2


async def test_a_model_that_is_not_served_is_an_error() -> None:
    with SimulatedEndpoint(model="tiny") as endpoint:
        async with EmbeddingsVLLM(model="other", url=endpoint.url) as embeddings:
            with pytest.raises(ModelNotServed):
                await embeddings.aembed_query("ice")


async def test_an_input_that_is_no_text_is_refused() -> None:
    with SimulatedEndpoint(model="tiny") as endpoint:
        async with EmbeddingsVLLM(model="tiny", url=endpoint.url) as embeddings:
            with pytest.raises(EndpointRefused, match="input must be"):
                await embeddings.aembed_documents([1])  # type: ignore[list-item]
