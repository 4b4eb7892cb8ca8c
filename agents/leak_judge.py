"""The leak judge: says whether a draft gives the answer away where code cannot tell."""

from typing import Literal

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tutelage import Agent, Verdict


class LeakVerdict(Verdict):
    """What a draft gives away; asked for first, so that the verdict follows from it."""

    reveals: Literal["nothing", "part", "answer"]
    """The answer is also given away by what leaves no other choice."""

    @property
    def scores(self) -> dict[str, float]:
        """How much it gives away, from 0 to 1: it is kept with the review."""
        return {"reveals": {"nothing": 0.0, "part": 0.5, "answer": 1.0}[self.reveals]}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        schema["properties"] = {"reveals": schema["properties"].pop("reveals"), **schema["properties"]}
        schema["required"] = ["reveals", *(name for name in schema["required"] if name != "reveals")]
        return schema


leak_judge = Agent(
    role="leak_judge",
    prompt="review",
    task="leak_judge",
    sees=frozenset({"answer", "misconception", "facts"}),
    reply=LeakVerdict,
    sampling={"temperature": 0.0, "max_tokens": 512},
)
