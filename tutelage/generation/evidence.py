"""What a run holds claims and answers against: made from the config, and looked at before the run begins."""

from tutelage.checks.equivalence import require_maths
from tutelage.config import Config, EvidenceConfig
from tutelage.dialogue.cast import Evidence
from tutelage.dialogue.nodes import actions_of
from tutelage.errors import ConfigError
from tutelage.evidence.fact_checking import FactCheck
from tutelage.evidence.solving import Solve
from tutelage.evidence.tools import evidence_tools
from tutelage.generation.registry import LoadedGraph
from tutelage.serving.embeddings import EmbeddingsVLLM


def check_evidence(config: Config, graph: LoadedGraph) -> None:
    """Makes sure that what a graph checks with is installed, and that what the config asks for is looked at.

    Raises:
        ConfigError: It is not so.
    """
    actions = list(actions_of(graph.graph))
    solves = any(isinstance(action, Solve) for action in actions)
    if solves:
        require_maths()
    if config.evidence != EvidenceConfig() and not solves and not any(isinstance(each, FactCheck) for each in actions):
        raise ConfigError(
            f"evidence: the graph {graph.name!r} looks for none: take `socratic` or `open_book`, or have a critique loop of "
            "your own reviewed by fact_check(agent)"
        )


async def evidence_of(config: Config, embeddings: EmbeddingsVLLM | None) -> Evidence:
    """The evidence that the config names: its documents are read and indexed, its tools imported.

    Args:
        config: The run's config.
        embeddings: Searches the documents by meaning, too.

    Raises:
        ConfigError: A pattern matches nothing, a tool cannot be had, or an extra is not installed.
        DocumentError: A document cannot be read.
        CallError: The embeddings could not be had.
    """
    wanted = config.evidence
    tools = await evidence_tools(
        documents=wanted.documents,
        tools=wanted.tools,
        folder=config.folder,
        passages=wanted.passages,
        embeddings=embeddings,
    )
    return Evidence(policy=wanted.policy, tools=tools, passages=wanted.passages, folder=config.folder)
