"""Takes the flags that Tutelage gives vLLM, and serves as `tutelage.testing.endpoint` does.

What it was started with, and its processes, are written to the folder STAND_IN. `STAND_IN_END` has it end with that message,
`STAND_IN_ENDPOINT` is more of the endpoint's config, as JSON.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tutelage.testing.endpoint import serving
from tutelage.testing.endpoint_config import EndpointConfig


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--served-model-name")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--tensor-parallel-size", type=int)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-loras")
    parser.add_argument("--max-lora-rank")
    parser.add_argument("--lora-modules", nargs="+", default=[])
    parser.add_argument("--enable-prompt-tokens-details", action="store_true")
    parser.add_argument("--scheduling-policy")
    parser.add_argument("--shutdown-timeout", type=int)
    parser.add_argument("--structured-outputs-config")
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    parser.add_argument("--max-model-len", type=int, default=16_384)
    return parser.parse_args()


def write_record(given: argparse.Namespace, engine: "subprocess.Popen[bytes]") -> None:
    record = {
        "pid": os.getpid(),
        "engine": engine.pid,
        "started": time.time(),
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
    }
    (Path(os.environ["STAND_IN"]) / f"{given.port}-{time.time_ns()}.json").write_text(json.dumps(record))


async def drain(port: int, seconds: int) -> None:
    """Waits until nothing is under way, for so long at most."""

    def under_way() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/simulated/stats") as reply:
            return int(json.load(reply)["under_way"])

    deadline = time.monotonic() + seconds
    while await asyncio.to_thread(under_way) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def serve(given: argparse.Namespace) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    config = EndpointConfig(
        host=given.host,
        port=given.port,
        model=given.served_model_name,
        adapters=tuple(json.loads(module)["name"] for module in given.lora_modules),
        api_key=os.environ.get("VLLM_API_KEY"),
        max_model_len=given.max_model_len,
        **json.loads(os.environ.get("STAND_IN_ENDPOINT", "{}")),
    )
    async with serving(config) as port:
        await told.wait()
        await drain(port, given.shutdown_timeout)


if __name__ == "__main__":
    given = flags()
    print("loading the model", flush=True)
    if "STAND_IN_END" in os.environ:
        sys.exit(os.environ["STAND_IN_END"])
    # As vLLM's engine: a process that does not end by itself when this one is killed.
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
    write_record(given, engine)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given))
    engine.kill()
    engine.wait()
