"""Judging again where prompts are hardest to make again: dialogues that had outgrown their limit, and candidates."""

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage import generate, read_transcripts
from tutelage.generation.judge import judge
from tutelage.testing import SimulatedEndpoint
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.under_review import under_review

LIMIT = 1000
"""Tokens of a call; a reply of a speaker has about 60."""
GRAPH = """
from langgraph.graph import START, StateGraph
from tutelage import Cast, Dialogue, add_critique_loop, max_messages, speak, stop_or
from tutelage.agents import critic, fact_checker, student, tutor


def long_lesson():
    graph = StateGraph(Dialogue, context_schema=Cast)
    reviewers = [critic, fact_checker]
    longest = {"candidates": 2, "choose": lambda candidates: len(candidates[0].text) < len(candidates[1].text)}
    add_critique_loop(graph, tutor, reviewers=reviewers, then=stop_or("student", max_messages()), **longest)
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("student", stop_or("tutor", max_messages()))
    return graph
"""


def play(folder: Path, endpoint: SimulatedEndpoint, policy: str) -> dict[str, Any]:
    """A run of a long dialogue; gives its config."""
    (folder / "graphs").mkdir()
    (folder / "graphs" / "long.py").write_text(GRAPH)
    (folder / "briefs.jsonl").write_text(json.dumps({"id": "b", "topic": "Sums"}) + "\n")
    config = {
        "run": "r",
        "graph": f"{folder / 'graphs' / 'long.py'}:long_lesson",
        "models": {"m": {"url": endpoint.url, "model": "simulated"}},
        "briefs": [{"from": str(folder / "briefs.jsonl")}],
        "limits": {"messages": 30, "tokens": LIMIT, "outgrown": policy, "revisions": 1},
        "roles": {
            "tutor": {"max_tokens": 100},
            "student": {"max_tokens": 100},
            "critic": {"max_tokens": 250},
            "fact_checker": {"max_tokens": 250},
        },
    }
    generate(config, out=folder / "run")
    return config


@pytest.mark.parametrize("policy", ["drop", "summarise"])
def test_of_a_dialogue_that_was_shortened_a_reviewer_is_shown_the_same_part_again(tmp_path: Path, policy: str) -> None:
    with SimulatedEndpoint(max_model_len=LIMIT, completion_tokens=60, completion_spread=0.2) as endpoint:
        play(tmp_path, endpoint, policy)
        [transcript] = read_transcripts(tmp_path / "run")
        assert transcript.outcome.detail is not None
        assert transcript.outcome.detail.count("were shown") > 1, "otherwise nothing was shortened"
        endpoint.forget()
        [tally] = judge(tmp_path / "run", by="critic").reviewers
        assert (tally.judged, tally.failed) == (15, {})
        assert tally.as_shown == tally.reviewed > 10, "\n".join(tally.lines("tutor"))
        sent = [request["body"]["messages"] for request in endpoint.requests()]
    reviews = [
        review
        for turn in transcript.turns
        if turn.accepted
        for review in turn.accepted.reviews
        if review.role == "critic" and review.call
    ]
    with Prompts(tmp_path / "run") as prompts:
        before = [prompts.messages(review.call.prompt_sha256) for review in reviews if review.call]
    assert len(before) == 15
    assert [each for each in before if each not in sent] == []


def test_what_was_not_chosen_is_not_under_review(tmp_path: Path) -> None:
    with SimulatedEndpoint(max_model_len=LIMIT, completion_tokens=60) as endpoint:
        play(tmp_path, endpoint, "drop")
    [transcript] = read_transcripts(tmp_path / "run")
    for turn in transcript.turns:
        dialogue = under_review(transcript, turn)
        assert dialogue is not None
        assert dialogue["attempts"][-1].text == turn.text
        assert dialogue["turns"] == transcript.turns[: turn.index]
        assert turn.role == "student" or any(each.status == "superseded" for each in dialogue["attempts"])
