"""The types of the public names, as a user's type checker sees them. Checked by mypy, never run."""

from collections.abc import Iterator, Sequence
from typing import Any, assert_type

from langgraph.graph import START, StateGraph

from tutelage import (
    Agent,
    Attempt,
    Brief,
    Cast,
    Choice,
    Dialogue,
    Grammar,
    Limits,
    Matching,
    Misconception,
    OneOf,
    Outcome,
    Transcript,
    Turn,
    Verdict,
    add_critique_loop,
    agenerate,
    assess,
    completed,
    generate,
    max_messages,
    needs,
    read_transcripts,
    review,
    speak,
    stop_or,
)
from tutelage.generation.generate import RunSummary
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing import ScriptedModel, SimulatedEndpoint

guide = Agent(role="guide", sees=frozenset({"facts"}), sampling={"temperature": 0.7})
speller = Agent(role="speller", reply=Matching(r"[a-z]+"))
rhymer = Agent(role="rhymer", reply=Grammar("start: /[a-z]+/"))
umpire = Agent(role="umpire", task="check", reply=OneOf("fair", "foul"))
checker = Agent(role="checker", prompt="archive", task="check", reply=Verdict)


def had_enough(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    return completed("had_enough") if len(dialogue["turns"]) >= limits.messages else None


class Reasoned(Choice):
    why: str


def shortest(candidates: Sequence[Attempt]) -> int:
    return min(range(len(candidates)), key=lambda index: len(candidates[index].text))


@needs("topic or question", "facts")
def tour() -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    add_critique_loop(graph, guide, reviewers=[checker], then=stop_or("visitor", had_enough))
    graph.add_node("visitor", speak(Agent(role="visitor")))
    graph.add_node("second_look", review(checker))
    graph.add_node("speller", speak(speller, candidates=4, choose=shortest))
    graph.add_node("rhymer", speak(rhymer, candidates=2, choose=Agent(role="judge", task="check", reply=Reasoned)))
    graph.add_node("umpire", assess(umpire))
    graph.add_edge(START, "guide")
    graph.add_conditional_edges("visitor", stop_or("guide", had_enough, max_messages(8)))
    return graph


assert_type(tour(), StateGraph[Dialogue, Cast, Dialogue, Dialogue])
assert_type(Brief(topic="Fractions", answer=("5/6",), misconception=Misconception(belief="b")).answer, tuple[str, ...])
assert_type(generate("config.yaml", graph=tour, models={"default": ScriptedModel({"guide": ["Hello."]})}), RunSummary)
assert_type(generate({"run": "r", "briefs": [{"from": "b.jsonl"}]}).exit_code, int)
assert_type(read_transcripts("runs/r"), Iterator[Transcript])
assert_type(next(read_transcripts("runs/r")).turns, list[Turn])
assert_type(Cast.of(ChatVLLM(model="m", url="http://gpu-1:8000/v1"), visitor=ScriptedModel({})), Cast)


async def use() -> None:
    assert_type(await agenerate("config.yaml"), RunSummary)
    state: Any = await tour().compile().ainvoke({"id": "d", "brief": Brief()}, context=Cast())
    assert_type(state["turns"], Any)
    with SimulatedEndpoint(model="m") as endpoint:
        assert_type(endpoint.url, str)
