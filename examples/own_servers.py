"""A model at an endpoint of one's own, in a graph, without a run: one lesson, turn by turn.

python examples/own_servers.py http://gpu-1:8000/v1 Qwen/Qwen3-32B
"""

import asyncio
import sys

from tutelage import Brief, Cast, Misconception
from tutelage.graphs.lesson import lesson
from tutelage.serving.chat_vllm import ChatVLLM

BRIEF = Brief(
    topic="Adding fractions",
    question="What is 1/2 + 1/3?",
    answer=("5/6", "five sixths"),
    misconception=Misconception(belief="You add the tops and you add the bottoms.", predicts="2/5"),
    facts=("1/2 is the same as 3/6.", "1/3 is the same as 2/6."),
)


async def main(url: str, model: str) -> None:
    """Plays one lesson and prints each turn when it is accepted."""
    graph = lesson().compile()
    async with ChatVLLM(model=model, url=url) as everyone:
        stream = graph.astream({"id": "one", "brief": BRIEF}, context=Cast.of(everyone), stream_mode="updates")
        async for update in stream:
            for changed in update.values():
                for turn in changed.get("turns", []):
                    print(f"{turn.role}: {turn.text}  ({len(turn.attempts)} drafts)")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
