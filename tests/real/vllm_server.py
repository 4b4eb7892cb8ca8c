"""Run vLLM's OpenAI server on the CPU for the length of a test session.

This is scaffolding for tests, with an environment that has vLLM; what users run is `tutelage serve`.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODEL = "tiny"
START_SECONDS = 300
"""How long a server may take to be healthy: 20 to 40 s alone on two cores, five times that beside other work."""
DRAIN_SECONDS = 10


class VLLMDidNotStart(Exception):
    """The server ended or stayed silent before its first reply; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMServer:
    """A server that has answered a request."""

    url: str
    """The base URL of its OpenAI API, with `/v1`."""
    log: Path
    """What the server printed."""
    pid: int
    """The API server's process."""
    model: str = MODEL
    """The name under which it serves the base model; the adapters have names of their own."""


@contextmanager
def serve_vllm(
    python: Path, model: Path, *, adapters: Mapping[str, Path], log: Path, more: Sequence[str] = ()
) -> Iterator[VLLMServer]:
    """Serve a model folder, and stop the server at the end.

    The server drains and ends, too, when the process that started it dies.

    Args:
        python: An interpreter whose environment has vLLM.
        model: A folder with weights, tokenizer and chat template.
        adapters: LoRA folders in peft's layout, by the name under which they are served.
        log: Where the server's output goes.
        more: Further flags, after the ones below, so that they win.

    Raises:
        VLLMDidNotStart: The server did not answer a request within `START_SECONDS`.
    """
    port = _free_port()
    lora = [f"{name}={folder}" for name, folder in adapters.items()]
    flags = [
        *("--model", str(model), "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)),
        # Compiling takes two minutes and is never reused; a block of 128 (the default) hides small prefixes.
        *("--dtype", "bfloat16", "--enforce-eager", "--block-size", "32"),
        *("--enable-prompt-tokens-details", "--enable-per-request-metrics", "--enable-request-id-headers"),
        # A prompt that is split over two steps kills the engine if it has a seed: "CPU Generator does not use offset".
        "--no-enable-chunked-prefill",
        # The backend must be named for the rest to count: without it a tiny model fills its budget with spaces.
        *("--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})),
        # Tools are refused without them.
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *(("--enable-lora", "--max-loras", str(len(lora)), "--lora-modules", *lora) if lora else ()),
        *("--shutdown-timeout", str(DRAIN_SECONDS)),
        *more,
    ]
    # vLLM leaves sockets in its temporary folder, and the path of a socket must be short: not below pytest's folder.
    with tempfile.TemporaryDirectory(prefix="vllm-") as scratch, log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", str(python), "-m", "vllm.entrypoints.openai.api_server", *flags],
            env=os.environ | _environment(Path(scratch)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches pytest alone, which then stops the server in good order
        )
        try:
            _await_first_reply(process, port, log)
            yield VLLMServer(url=f"http://127.0.0.1:{port}/v1", log=log, pid=process.pid)
        finally:
            _stop(process)


def _environment(scratch: Path) -> dict[str, str]:
    (scratch / "tmp").mkdir()
    return {
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(scratch / "tmp"),
        "VLLM_CACHE_ROOT": str(scratch / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, the least there is
        "VLLM_NO_USAGE_STATS": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_first_reply(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for /health, then for a reply: a model that kills the engine at its first request is healthy until then."""
    deadline = time.monotonic() + START_SECONDS
    greeting = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    while not _answers(f"http://127.0.0.1:{port}/health"):
        if process.poll() is not None:
            raise VLLMDidNotStart(f"vLLM ended with exit code {process.returncode}; see {log}:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise VLLMDidNotStart(f"vLLM was not healthy after {START_SECONDS} s; see {log}:\n{_tail(log)}")
        time.sleep(0.25)
    if not _answers(f"http://127.0.0.1:{port}/v1/chat/completions", greeting):
        raise VLLMDidNotStart(f"vLLM was healthy and then failed its first request; see {log}:\n{_tail(log)}")


def _answers(url: str, body: object = None) -> bool:
    """Whether a GET, or a POST of `body`, is answered with status 200."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return bool(response.status == 200)
    except OSError:  # URLError and HTTPError are kinds of it
        return False


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the server drain; kill it and its engine processes if it does not end."""
    process.terminate()
    try:
        process.wait(DRAIN_SECONDS + 20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
