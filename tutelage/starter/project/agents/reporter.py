"""The reporter: asks what a reader would want to know."""

from tutelage import Agent

reporter = Agent(
    role="reporter",
    sampling={"temperature": 0.9, "max_tokens": 96},
)
