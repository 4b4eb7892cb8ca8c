"""Test doubles for graphs and runs of one's own: a scripted model, and a simulated vLLM endpoint."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.testing.endpoint_config import EndpointConfig, Latency
    from tutelage.testing.faults import Fault
    from tutelage.testing.scripted import ScriptedModel
    from tutelage.testing.simulated_endpoint import SimulatedEndpoint

_PLACE_OF = {
    "EndpointConfig": "tutelage.testing.endpoint_config",
    "Fault": "tutelage.testing.faults",
    "Latency": "tutelage.testing.endpoint_config",
    "ScriptedModel": "tutelage.testing.scripted",
    "SimulatedEndpoint": "tutelage.testing.simulated_endpoint",
}

__all__ = ["EndpointConfig", "Fault", "Latency", "ScriptedModel", "SimulatedEndpoint"]


def __getattr__(name: str) -> Any:
    # Imported when first used: the endpoint's process has no need of LangChain, nor a scripted test of aiohttp.
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACE_OF[name]), name)
