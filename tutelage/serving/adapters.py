"""LoRA adapters: which weights they are, and loading them into servers that run already."""

import asyncio
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from pydantic import SecretStr

from tutelage.errors import ConfigError
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.serving.redaction import without_key

CONFIG: Final = "adapter_config.json"
LOAD_SECONDS: Final = 120.0
RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `--max-lora-rank` takes."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter in a folder, in peft's layout."""

    name: str
    folder: Path
    sha256: str
    rank: int


def adapter_sha256(folder: Path) -> str:
    """The hash by which a transcript names an adapter's weights.

    It is the SHA-256 of what `sha256sum` prints of the folder's `adapter_config.json`, `*.bin` and `*.safetensors`, in the
    order of their names' bytes: `(LC_ALL=C; sha256sum adapter_config.json *.bin *.safetensors | sha256sum)`, where each
    pattern has at most one match. README and tokenizer do not count; that the files are called otherwise, does.

    Raises:
        OSError: A file cannot be read.
    """
    files = [path for path in folder.iterdir() if path.name == CONFIG or path.suffix in (".bin", ".safetensors")]
    lines = []
    for path in sorted(files, key=lambda path: path.name.encode()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_adapter(name: str, path: str | Path, *, folder: Path) -> Adapter:
    """Finds an adapter, and hashes its weights.

    Args:
        name: The name under which it is to be served.
        path: Its folder, relative to `folder` if it is not absolute.
        folder: Where the config is.

    Raises:
        ConfigError: There is none.
    """
    place = (folder / Path(path).expanduser()).resolve()
    try:
        settings = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        return Adapter(name=name, folder=place, sha256=adapter_sha256(place), rank=int(settings["r"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"adapters.{name}: {str(place)!r} holds no LoRA adapter that can be read: it needs peft's {CONFIG} with the rank"
            f" `r`, and its weights ({type(error).__name__}: {error})"
        ) from error


def max_rank(adapters: Mapping[str, Adapter]) -> int:
    """The least `--max-lora-rank` that holds them all.

    Raises:
        ConfigError: vLLM has none that large.
    """
    name, rank = max(((each.name, each.rank) for each in adapters.values()), key=lambda each: each[1])
    if rank > RANKS[-1]:
        raise ConfigError(f"adapters.{name}: its rank is {rank}, and vLLM takes {RANKS[-1]} at most")
    return next(allowed for allowed in RANKS if allowed >= rank)


async def load_adapters(pool: EndpointPool, adapters: Mapping[str, str], api_key: SecretStr | None) -> None:
    """Loads adapters into every server of a pool that does not serve them yet (vLLM's `/v1/load_lora_adapter`).

    Args:
        pool: The servers.
        adapters: By name, the folder as the servers see it.
        api_key: The servers' key.

    Raises:
        ConfigError: A server refused; the message says what to change there.
        EndpointUnreachable: No server answered.
    """
    served: dict[str, set[str]] = {}
    for entry in await pool.models():
        served.setdefault(entry.endpoint, set()).add(entry.name)
    await asyncio.gather(*[load_missing(endpoint, names, adapters, api_key) for endpoint, names in served.items()])


async def load_missing(
    endpoint: str, served: Collection[str], adapters: Mapping[str, str], api_key: SecretStr | None
) -> None:
    """Loads into one server those adapters that it does not serve: one that was started again has none of them.

    Raises:
        ConfigError: It refused, with the key hidden in what is said.
    """
    missing = [name for name in adapters if name not in served]
    if not missing:
        return
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key.get_secret_value()}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=LOAD_SECONDS)) as session:
        try:
            await asyncio.gather(*[_load(session, endpoint, name, adapters[name]) for name in missing])
        except ConfigError as error:
            raise ConfigError(without_key(str(error), api_key)) from None


async def _load(session: aiohttp.ClientSession, endpoint: str, name: str, path: str) -> None:
    body = {"lora_name": name, "lora_path": path}
    try:
        async with session.post(f"{endpoint}/load_lora_adapter", json=body, allow_redirects=False) as reply:
            status, text = reply.status, await reply.text(errors="replace")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ConfigError(f"adapters.{name}: {endpoint} did not load it ({type(error).__name__}: {error})") from error
    if status == 405 or (status == 404 and "Not Found" in text):  # there is no such route; a missing folder is named
        text = (
            f"{text[:200]}. Start vLLM there with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora, or have it load the"
            f" adapter at its start: --enable-lora --lora-modules {name}={path}"
        )
    if status != 200 and "already" not in text:  # another run has loaded it since we asked
        raise ConfigError(f"adapters.{name}: {endpoint} does not load {path!r}: HTTP {status}: {text[:500]}")
    log.info("adapter_loaded", endpoint=endpoint, adapter=name)
