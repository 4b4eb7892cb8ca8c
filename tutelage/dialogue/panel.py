"""A role that several models play at once: each is asked the same, and what most of them say counts.

A panel of judges from different families comes closer to people than one large judge, and costs less (Verga et al. 2024,
arXiv 2404.18796).
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Reply, ask_for_several
from tutelage.dialogue.calling import Occasion
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.prompt import Prompt
from tutelage.dialogue.shapes import Shape
from tutelage.errors import CallError

Answer = TypeVar("Answer")


async def ask_panel(
    shape: Shape | None, agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion
) -> list[Reply[Any]]:
    """What everybody says who plays a role: its player, and the members of its panel.

    They are asked at once. With a panel each reply is journalled, so that after a crash nobody is asked twice.

    Raises:
        ShapeError: Somebody's reply did not fit, also when asked for again with the error.
        CallError: Somebody's call failed for good.
    """
    player = cast.player(agent.role)
    if not player.panel:
        return await ask_for_several(1, shape, agent, prompt, cast, occasion)
    members = (replace(player, panel=()), *player.panel)
    asked = (
        ask_for_several(
            1,
            shape,
            agent,
            prompt,
            replace(cast, players={**cast.players, agent.role: member}),
            replace(occasion, purpose=f"panel {number}"),
            journal=True,
        )
        for number, member in enumerate(members, start=1)
    )
    return [reply for (reply,) in await together(*asked)]


async def together(*asked: Coroutine[Any, Any, Answer]) -> list[Answer]:
    """All answers, in order. Where one fails, the others come to their end first: they are journalled, and not lost.

    Raises:
        CallError: The first failure, with the replies of all failures that did not fit.
    """
    answers = await asyncio.gather(*asked, return_exceptions=True)
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    if failures:
        calls = [failure for failure in failures if isinstance(failure, CallError)]
        if calls and len(calls) == len(failures):
            calls[0].replies = [reply for failure in calls for reply in failure.replies]
        raise next((failure for failure in failures if failure not in calls), failures[0])
    return [answer for answer in answers if not isinstance(answer, BaseException)]
