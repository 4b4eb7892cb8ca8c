"""The lesson as a hand-written asyncio loop over aiohttp and orjson. It saves nothing."""

import asyncio
from typing import Any

import aiohttp
import orjson

from benchmarks.lesson import (
    MAX_TOKENS,
    Draft,
    Job,
    Messages,
    Review,
    Script,
    review_messages,
    student_messages,
    tutor_messages,
    what_is_said,
)
from tutelage.dialogue.turn import Verdict

RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "Verdict", "schema": Verdict.model_json_schema(), "strict": True},
}


async def play(job: Job) -> None:
    """Makes the job's dialogues."""
    slots = asyncio.Semaphore(job.concurrency)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        lesson = Lesson(session, job)

        async def one(script: Script) -> None:
            async with slots:
                await lesson.converse(script)

        await asyncio.gather(*map(one, job.scripts))


class Lesson:
    """A dialogue's course."""

    def __init__(self, session: aiohttp.ClientSession, job: Job) -> None:
        self._session = session
        self._job = job
        self._url = f"{job.url}/chat/completions"

    async def converse(self, script: Script) -> list[tuple[str, str]]:
        """One dialogue: the turns, as role and text."""
        turns: list[tuple[str, str]] = []
        while len(turns) < self._job.messages:
            turns.append(("tutor", await self._reviewed_draft(script, turns)))
            turns.append(("student", await self._say(student_messages(script, turns))))
        return turns

    async def _reviewed_draft(self, script: Script, turns: list[tuple[str, str]]) -> str:
        drafts: list[Draft] = []
        while True:
            text = await self._say(tutor_messages(script, turns, drafts))
            reviews = await asyncio.gather(*(self._review(script, turns, text, reviewer) for reviewer in script.tasks))
            drafts.append({"text": text, "reviews": reviews})
            if (final := what_is_said(drafts, self._job.revisions)) is not None:
                return final

    async def _review(self, script: Script, turns: list[tuple[str, str]], draft: str, reviewer: str) -> Review:
        reply = await self._say(review_messages(script, turns, draft, reviewer), response_format=RESPONSE_FORMAT)
        verdict = orjson.loads(reply)
        return {"role": reviewer, "verdict": verdict["verdict"], "issues": verdict["issues"]}

    async def _say(self, messages: Messages, **options: Any) -> str:
        body = {
            "model": self._job.model,
            "messages": [{"role": role, "content": text} for role, text in messages],
            "temperature": 0.0,
            "max_tokens": MAX_TOKENS,
            **options,
        }
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=orjson.dumps(body), headers=headers) as response:
            response.raise_for_status()
            reply = orjson.loads(await response.read())
        return str(reply["choices"][0]["message"]["content"]).strip()
