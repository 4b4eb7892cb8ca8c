"""The calls of a run, made again by a closed loop: so many clients, each with one call in flight, over bare aiohttp.

    python -m benchmarks.closed_loop CALLS URL CLIENTS

It knows all prompts beforehand and keeps nothing of the replies, so that nothing but the server holds it back. A client
takes a dialogue and makes its calls one after the other, as they were made in the run, then takes the next: a prompt
finds in the prefix cache what it found there in the run. Printed is how many calls were in flight on average.
"""

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop

from benchmarks.run_process import Project
from tutelage.transcripts.messages import Prompts

Body = dict[str, Any]
"""Of a request."""


def calls_of_run(project: Project, **instead: Any) -> list[list[Body]]:
    """What a run has sent: the requests of each dialogue in their order, dialogues in the order in which they began.

    Only of graphs that make one call at a time.

    Args:
        project: Of the run, which has ended.
        **instead: What is to be other than it was.
    """
    dialogues: list[list[Body]] = []
    with Prompts(project.run) as prompts:
        for transcript in sorted(project.transcripts(), key=lambda transcript: transcript.started):
            calls = [
                call
                for turn in transcript.turns
                for call in (*(step.call for step in turn.steps), *(attempt.call for attempt in turn.attempts))
            ]
            dialogues.append(
                [
                    {
                        "model": call.adapter or call.model,
                        "messages": prompts.messages(call.prompt_sha256),
                        **call.sampling,
                        "seed": call.seed,
                        **instead,
                    }
                    for call in calls
                ]
            )
    return dialogues


def write_calls(path: Path, dialogues: Iterable[Sequence[Body]]) -> None:
    """Writes them where the loop reads them: a JSON array for each dialogue, one a line."""
    path.write_bytes(b"".join(orjson.dumps(dialogue, option=orjson.OPT_APPEND_NEWLINE) for dialogue in dialogues))


def in_flight(project: Project) -> float:
    """How many calls of a run were in flight on average (Little's law), by its transcripts.

    A call that waits for its place before it is sent counts, too: the loop is rather given too many than too few.
    """
    transcripts = project.transcripts()
    seconds = sum(call.seconds for transcript in transcripts for call in transcript.calls())
    began = min(transcript.started for transcript in transcripts)
    ended = max(transcript.finished for transcript in transcripts)
    return seconds / (ended - began).total_seconds()


async def replay(dialogues: Sequence[Sequence[bytes]], url: str, clients: int) -> float:
    """Makes all calls.

    Args:
        dialogues: For each, the bodies of its requests.
        url: The server's, with the `/v1`.
        clients: Calls in flight at once.

    Returns:
        How many were in flight on average: fewer, for of the last dialogues there are less than clients.

    Raises:
        ClientResponseError: A call was not answered with 200.
    """
    queue, seconds = iter(dialogues), 0.0
    headers = {"Content-Type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal seconds
        for dialogue in queue:
            for body in dialogue:
                sent = time.monotonic()
                async with session.post(f"{url}/chat/completions", data=body) as response:
                    await response.read()
                seconds += time.monotonic() - sent

    began = time.monotonic()
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout, raise_for_status=True
    ) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return seconds / (time.monotonic() - began)


if __name__ == "__main__":
    with Path(sys.argv[1]).open("rb") as file:
        bodies = [[orjson.dumps(body) for body in orjson.loads(line)] for line in file]
    print(uvloop.run(replay(bodies, sys.argv[2], int(sys.argv[3]))))
