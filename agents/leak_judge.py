"""The leak judge: says whether a draft gives the answer away where code cannot tell."""

from typing import Final, Literal, Self

from pydantic import GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tutelage import Agent, Issue, Verdict

TOLD: Final = Issue(
    dimension="leak",
    severity="block",
    evidence="The draft gives the answer away before the student has come to it.",
    instruction="Leave out what gives the answer away, and ask for a step on the way to it.",
)
"""What is wrong with a draft that reveals the answer, where the judge does not say it."""


class LeakVerdict(Verdict):
    """What a draft gives away; asked for first, and the verdict follows from it.

    A draft that reveals the answer is blocked, whatever else its judge says, and no other one is.
    """

    reveals: Literal["nothing", "part", "answer"]
    """The answer is also given away by what leaves no other choice."""

    @model_validator(mode="after")
    def _follows(self) -> Self:
        # The schema is frozen: what is derived is set here, and nowhere else.
        if self.reveals == "answer":
            blocked = any(issue.severity == "block" for issue in self.issues)
            first, *others = self.issues or [TOLD]
            issues = self.issues if blocked else [first.model_copy(update={"severity": "block"}), *others]
            object.__setattr__(self, "verdict", "revise")
        else:
            issues = [
                issue.model_copy(update={"severity": "major"}) if issue.severity == "block" else issue
                for issue in self.issues
            ]
        object.__setattr__(self, "issues", issues)
        return self

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
