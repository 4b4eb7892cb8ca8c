"""The config of a run: a YAML file, checked key by key.

What counts, first to last: what the command line says, `TUTELAGE_…` in the environment (`TUTELAGE_LIMITS__MESSAGES=8`),
the file, the defaults. `${NAME}` in a text is taken from the environment; an API key is always such a reference, and is
looked up only when it is used, so that it is never written down.
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tutelage.errors import ConfigError

_REFERENCE: Final = re.compile(r"\$\{(\w+)\}")


class Section(BaseModel):
    """A part of the config: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class ServeConfig(Section):
    """vLLM servers that Tutelage launches itself."""

    model: str
    replicas: int = Field(default=1, ge=1)
    gpus_per_replica: int = Field(default=1, ge=0)
    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters by name, each a folder."""
    python: str | None = None
    """The interpreter of the environment that vLLM lives in; this one if not given."""
    env: dict[str, str] = Field(default_factory=dict)
    """`${NAME}` in its values is looked up when the servers are launched, and never written down."""
    args: list[str] = Field(default_factory=list)
    """Handed through to vLLM's server."""
    gpus: tuple[str, ...] | None = None
    """Which GPUs to divide among the replicas, as CUDA_VISIBLE_DEVICES names them; all there are, if not given."""
    host: str = "127.0.0.1"
    """Where the servers listen."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Of the first replica; the next ones follow. Free ones are found if it is not given."""
    start_timeout: float = Field(default=1800, gt=0)
    """Seconds until a server must have answered a request: loading a large model takes minutes."""
    grace: float = Field(default=30, ge=0)
    """Seconds that a server has to finish what it is answering when it is to end."""

    @field_validator("gpus", mode="before")
    @classmethod
    def _as_names(cls, value: Any) -> Any:
        return [str(each) for each in value] if isinstance(value, list) else value


class Training(Section):
    """What a model was trained on, as far as models wrote it: where its generation comes from."""

    exports: tuple[str, ...] = ()
    """Folders of exports, relative to the config file: each has an `export.json` that says the rest."""
    generation: int | None = Field(default=None, ge=0)
    """The highest of what it was trained on: 0 for a base model. That of the exports, if not given."""
    real_share: float | None = Field(default=None, ge=0, le=1)
    """How much of what it was trained on people wrote. That of the exports, if not given; else 1 for generation 0, and 0."""

    @model_validator(mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        return {"exports": [value] if isinstance(value, str) else value} if isinstance(value, str | list) else value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.exports and self.generation is None:
            raise ValueError("names neither the folders of exports nor a `generation:`")
        return self


class ModelConfig(Section):
    """Where words come from: endpoints that serve one model, or servers to launch."""

    url: tuple[str, ...] = ()
    """One endpoint, or a list: replicas of one model. `dns+http://vllm:8000/v1`: all addresses that the name has."""
    model: str | None = None
    """The name under which the endpoints serve it; for `serve:` that of the model launched, if not given."""
    api_key: str | None = None
    """A reference to the environment: `${NAME}`."""
    timeout: float = Field(default=600, gt=0)
    """Seconds that one call may take."""
    patience: float = Field(default=600, ge=0)
    """Seconds that a run waits for a model of which no endpoint answers any more, before it stops. A daemon waits on."""
    in_flight: int | None = Field(default=None, ge=1)
    """Requests open at each endpoint at most. If not given, found out all the time from what vLLM says of its load."""
    priority: bool | None = None
    """Whether requests say how old their dialogue is, so that vLLM finishes first what began first. Its scheduler must
    go by priority (`--scheduling-policy priority`); `serve:` has it so, and there it is on."""
    isolate: bool = False
    """Whether this run's prompts share no KV cache with anyone else's (vLLM's `cache_salt`)."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters to load into the running servers that do not have them yet: by name, a folder as the servers see it.
    vLLM must allow it (VLLM_ALLOW_RUNTIME_LORA_UPDATING=1)."""
    trained_on: Training | None = None
    """Exports that the model was trained on, a folder or a list, or `{generation: 1, real_share: 0.5}`; none if not given."""
    adapters_trained_on: dict[str, Training] = Field(default_factory=dict)
    """The same for its adapters, by name."""
    serve: ServeConfig | None = None

    @field_validator("url", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not re.match(r"(dns\+)?https?://[^/\s]+", url):
                raise ValueError(f"{url!r} is no URL of an endpoint: write it like http://gpu-1:8000/v1")
        return tuple(url.rstrip("/") for url in urls)

    @field_validator("api_key")
    @classmethod
    def _reference_only(cls, value: str | None) -> str | None:
        return _reference(value)

    @model_validator(mode="after")
    def _url_or_serve(self) -> Self:
        if bool(self.url) == bool(self.serve):
            raise ValueError("needs either `url:` (endpoints that run already) or `serve:` (servers to launch)")
        if self.url and not self.model:
            raise ValueError("needs `model:`, the name under which the endpoint serves it")
        if self.serve and self.adapters:
            raise ValueError("has `adapters:` beside `serve:`: write them under `serve:`, which launches with them")
        return self

    @property
    def name(self) -> str:
        """The name under which it is asked for."""
        return self.model or (self.serve.model if self.serve else "")

    def secret(self) -> SecretStr | None:
        """The API key, looked up in the environment now.

        Raises:
            ConfigError: The environment does not have it.
        """
        return _secret(self.api_key)


class RoleConfig(Section):
    """Who plays a role, and how. What is not given is the agent's own choice."""

    model: str | None = None
    """A name under `models:`; the model called `default`, or the only one, if not given."""
    adapter: str | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = Field(default=None, gt=0)
    stop: list[str] | None = None
    logprobs: int | None = Field(default=None, ge=0)
    """Keeps each token's log-probability, and those of so many alternatives to it, in the transcript."""
    token_ids: bool = False
    """Keeps the token ids of prompt and reply in the transcript, as vLLM gives them."""
    panel: tuple[str, ...] = ()
    """Names under `models:` of further judges in this role, beside `model`: what most of them say counts."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Anything else for the request's body, as the endpoint spells it."""

    def sampling(self) -> dict[str, Any]:
        """What goes into the request of each call."""
        named = self.model_dump(
            exclude={"model", "adapter", "logprobs", "token_ids", "panel", "extra"}, exclude_none=True
        )
        if self.logprobs is not None:
            named |= {"logprobs": True, "top_logprobs": self.logprobs}
        if self.token_ids:
            named["return_token_ids"] = True
        return {**named, **self.extra}


class BriefSource(Section):
    """Files of briefs: JSONL, CSV or Parquet, by their endings."""

    from_: str = Field(alias="from")
    """A path or a pattern, relative to the config file."""
    map: dict[str, str] = Field(default_factory=dict)
    """By a brief's key, the column that holds it."""
    generation: int = Field(default=0, ge=0)
    """Of briefs that do not say their own: 0 where people wrote them, 1 where a base model did."""


class LimitsConfig(Section):
    """How far a dialogue may go."""

    messages: int = Field(default=16, ge=1)
    """Public turns."""
    revisions: int = Field(default=2, ge=0)
    """Drafts sent back for one turn."""
    tokens: int = Field(default=8192, ge=64)
    """Prompt and completion of one call together."""
    outgrown: Literal["end", "drop", "summarise"] = "end"
    """What happens to a dialogue whose next call would not fit `tokens`: it ends; or its oldest turns are no longer shown;
    or they are shown as a summary that the speaker's model writes."""
    turn_tokens: int | None = Field(default=None, ge=64)
    """What the drafts of one turn and their reviews may take together, prompts and completions: no draft is sent back
    that would need more. Eight times `tokens` if not given."""


class EvidenceConfig(Section):
    """What claims are checked against, besides each brief's own facts, by the graphs that look for evidence."""

    documents: tuple[str, ...] = ()
    """Files of text, Markdown or PDF; relative to the config, with wildcards."""
    policy: Literal["strict", "mark", "open"] = "mark"
    """What sends a draft back. `strict`: a claim that is contradicted or not found; `mark`: one that is contradicted; what
    is not found is kept and tagged; `open`: nothing, all is written down."""
    passages: int = Field(default=5, ge=1)
    """Passages that are looked at for each claim, of each source."""
    tools: tuple[str, ...] = ()
    """LangChain tools of your own that answer a claim with passages: `mytools.py:search`."""
    embedding: str | None = None
    """A model under `models:` that serves embeddings: the documents are then searched by meaning, too."""


class StudentsConfig(Section):
    """Who the students are, in the graphs that have students of many kinds."""

    personas: tuple[str, ...] = ()
    """Their names; all that there are if empty. `none` is a student without one, and a name given twice comes twice as
    often."""
    adversarial: float = Field(default=0.0, ge=0, le=1)
    """The share of dialogues whose student tries to get the answer out of the tutor, by one of six techniques."""


class TargetConfig(Section):
    """When a run is done."""

    dialogues: int | None = Field(default=None, ge=1)
    """Completed dialogues, evenly over the briefs; without it each brief is done once."""


class WatermarksConfig(Section):
    """Above these no new dialogue starts; what is under way goes on."""

    memory: float = Field(default=0.9, gt=0, le=1)
    """Of the memory that this machine or container has, the share in use."""
    disk: float = Field(default=1.0, ge=0)
    """GiB that must be free where the run folder is."""
    waiting: int = Field(default=64, ge=0)
    """Requests that wait at an endpoint, by its own metrics."""


class DaemonConfig(Section):
    """How `tutelage daemon` behaves."""

    listen: str | None = None
    """HOST:PORT for probes, metrics and control over HTTP, beside the Unix socket in the run folder."""
    token: str | None = None
    """A reference to the environment, `${NAME}`: what control over HTTP asks for; needed where `listen` is not loopback."""
    grace: float = Field(default=60, ge=0)
    """Seconds that a drain waits for the calls under way."""
    poll: float = Field(default=10, gt=0)
    """Seconds between two looks for new briefs."""

    @field_validator("token")
    @classmethod
    def _reference_only(cls, value: str | None) -> str | None:
        return _reference(value)

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}", value):
            raise ValueError(f"{value!r} is no HOST:PORT: write it like 127.0.0.1:9464")
        return value

    def secret(self) -> SecretStr | None:
        """The token, looked up in the environment now.

        Raises:
            ConfigError: The environment does not have it.
        """
        return _secret(self.token)


class TelemetryConfig(Section):
    """What a run tells of itself besides its logs."""

    traces: bool = False
    """OpenTelemetry spans; where they go is said by the OTEL_… variables of the environment."""
    content: bool = False
    """Whether spans hold prompts and replies."""


class Config(BaseSettings):
    """The config of a run. The contract for users and other programs: its keys keep their meaning."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="TUTELAGE_", env_nested_delimiter="__", populate_by_name=True
    )

    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The run's name; its folder is runs/NAME."""
    graph: str = "lesson"
    """A registered graph's name, or `graphs/mine.py:my_graph`."""
    models: dict[str, ModelConfig] = Field(default_factory=dict)
    """By a name of your own; without any, the embedded model plays all roles."""
    roles: dict[str, RoleConfig] = Field(default_factory=dict)
    briefs: tuple[BriefSource, ...]
    limits: LimitsConfig = LimitsConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    students: StudentsConfig = StudentsConfig()
    target: TargetConfig = TargetConfig()
    concurrency: int = Field(default=256, ge=1)
    """Dialogues under way at once, at most: how many it is follows what the endpoints can take."""
    watermarks: WatermarksConfig = WatermarksConfig()
    daemon: DaemonConfig = DaemonConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    seed: int = 0
    folder: Path = Field(default_factory=Path.cwd, exclude=True)
    """Where the config file is: paths are relative to it. Not a key of the file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment counts before the file, which comes in as the arguments."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _roles_have_models(self) -> Self:
        for role, config in self.roles.items():
            self.model_of(role, config)
            for name in config.panel:
                if name not in self.models:
                    raise ValueError(f"roles.{role}.panel: {self._no_such_model(name)}")
        if (embedding := self.evidence.embedding) is not None and embedding not in self.models:
            raise ValueError(f"evidence.embedding: {self._no_such_model(embedding)}")
        return self

    def model_of(self, role: str, config: RoleConfig | None = None) -> str | None:
        """The name of the model that plays a role; None for the embedded model.

        Raises:
            ValueError: There is no such model, or it is not said which of several.
        """
        named = (config or self.roles.get(role, RoleConfig())).model
        if not self.models and named is None:
            return None
        if named is not None and named not in self.models:
            raise ValueError(f"roles.{role}.model: {self._no_such_model(named)}")
        if named is not None:
            return named
        if "default" in self.models:
            return "default"
        if len(self.models) == 1:
            return next(iter(self.models))
        raise ValueError(f"roles.{role}: say which model plays it ({_list(self.models)}), or call one model `default`")

    def _no_such_model(self, name: str) -> str:
        return f"there is no model {name!r} under `models:`; there is {_list(self.models)}"

    def as_written(self) -> dict[str, Any]:
        """The resolved config as plain data, as it is kept in run.yaml: keys as references only."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=False)


def _reference(value: str | None) -> str | None:
    if value is not None and not _REFERENCE.fullmatch(value):
        raise ValueError("a key is never written down: put it in the environment and write ${NAME} here")
    return value


def _secret(reference: str | None) -> SecretStr | None:
    if reference is None:
        return None
    name = reference[2:-1]
    if name not in os.environ:
        raise ConfigError(f"the key ${{{name}}} is not in the environment: export {name}=… first")
    return SecretStr(os.environ[name])


def load_config(source: Path | str | Mapping[str, Any] | Config) -> Config:
    """Reads a config from a YAML file, or from a mapping with the same keys.

    Raises:
        ConfigError: It is not there, no valid YAML, or has keys or values that do not fit; the message names each.
    """
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        return _validated(dict(source), "the config", {}, Path.cwd())
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no UTF-8: {error}"
        raise ConfigError(f"the config {str(path)!r} cannot be read: {reason}") from error
    try:
        data = yaml.safe_load(text)
        lines = dict(_lines(yaml.compose(text), ()))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a config is `key: value` lines; begin with `run: NAME`")
    return _validated(data, str(path), lines, path.resolve().parent)


def _validated(data: dict[str, Any], source: str, lines: dict[tuple[Any, ...], int], folder: Path) -> Config:
    for key in data:
        if not isinstance(key, str) or key == "folder":
            raise ConfigError(f"{source}: {key}: unknown key (YAML takes a bare on, off, yes or no for true or false)")
    try:
        return Config(**_resolve(data, ()), folder=folder)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(source, lines, dict(each)) for each in error.errors())) from error
    except (ConfigError, SettingsError) as error:
        raise ConfigError(f"{source}: {error}") from error


def _resolve(value: Any, path: tuple[str, ...]) -> Any:
    """Replaces `${NAME}` by what the environment says, in all texts but API keys."""
    if isinstance(value, dict):
        return {key: _resolve(each, (*path, str(key))) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolve(each, path) for each in value]
    if not isinstance(value, str) or path[-1:] in (("api_key",), ("token",)) or path[-2:-1] == ("env",):
        return value  # a secret, or perhaps one: looked up when it is used

    def look_up(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(f"{'.'.join(path)}: ${{{name}}} is not in the environment: export {name}=… first")
        return os.environ[name]

    return _REFERENCE.sub(look_up, value)


def _lines(node: yaml.Node | None, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], int]]:
    """The line of each key, by its path."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _lines(value, (*path, index))


def _explain(source: str, lines: dict[tuple[Any, ...], int], error: dict[str, Any]) -> str:
    place = tuple(error["loc"])
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    where = f"{source}, line {line}" if line else source
    key = ".".join(str(part) for part in place)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), _ALL_KEYS, n=1)
        message = f"unknown key{f'; did you mean {near[0]!r}?' if near else ''}"
    elif error["type"] == "missing":
        message = "is missing"
    return f"{where}: {key}: {message}" if key else f"{where}: {message}"


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in names) or "none"


_SECTIONS: Final[tuple[type[BaseModel], ...]] = (
    *(Config, Training, ModelConfig, ServeConfig, RoleConfig, BriefSource, LimitsConfig, TargetConfig),
    *(WatermarksConfig, DaemonConfig, TelemetryConfig),
)
_ALL_KEYS: Final = sorted({"from"}.union(*(section.model_fields for section in _SECTIONS)) - {"from_", "folder"})
