"""Prompts: Markdown templates with front matter, and the messages that are rendered from them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.meta
import jinja2.sandbox
import yaml

from tutelage.errors import PromptError

SpeakerRole = Literal["system", "user", "assistant"]
JOINT = "\n\n"
"""What stands between the parts of one message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message, kept in the parts that it was put together from: each part is stored once in a run."""

    role: SpeakerRole
    parts: tuple[str, ...]

    @property
    def content(self) -> str:
        """The text that the model is sent."""
        return self.parts[0] if len(self.parts) == 1 else JOINT.join(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One part of a prompt, with the hash of all that stands before it: a prompt is stored as a chain of links."""

    sha256: str
    parent: str | None
    role: SpeakerRole
    opens: bool
    """Whether this part begins a message, or goes on with the one before."""
    text: str


@dataclass(frozen=True)
class Prompt:
    """The messages of one model call."""

    messages: tuple[Message, ...]

    @cached_property
    def sha256(self) -> str:
        """The hash of the whole prompt: that of its last link."""
        return list(self.links())[-1].sha256

    def links(self) -> Iterator[Link]:
        """The prompt as a hash chain: prompts that begin alike share their first links."""
        parent: str | None = None
        for message in self.messages:
            for number, text in enumerate(message.parts):
                link = link_of(parent, message.role, number == 0, text)
                yield link
                parent = link.sha256

    def as_dicts(self) -> list[dict[str, str]]:
        """The messages as chat completion APIs and trainers spell them: `{role, content}`."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


@lru_cache(maxsize=16_384)
def link_of(parent: str | None, role: SpeakerRole, opens: bool, text: str) -> Link:
    """The link of a part, behind the one with the hash `parent`."""
    # Cached, for each call of a view goes over the same long beginning again.
    hashed = b"\0".join(((parent or "").encode(), (role if opens else "").encode(), text.encode()))
    return Link(sha256=hashlib.sha256(hashed).hexdigest(), parent=parent, role=role, opens=opens, text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A prompt template: a Markdown file with YAML front matter and a Jinja2 body."""

    name: str
    source: str
    """Where it was read from."""
    meta: Mapping[str, Any]
    names: frozenset[str]
    """The names that it uses and does not set itself."""
    body: jinja2.Template
    opening: jinja2.Template | None
    """What a role that speaks first is told, from the front matter."""


class PromptLibrary:
    """Prompt templates by name: those in the given folders first, then the built-in ones.

    Args:
        folders: Folders of `NAME.md` files, the first that has a name wins. A file there overrides a built-in prompt.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._folders = tuple(folders)
        self._templates: dict[str, Template] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._environment = jinja2.sandbox.SandboxedEnvironment(
            undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
        )

    def template(self, name: str) -> Template:
        """The template of that name.

        Raises:
            PromptError: There is none, or it is broken.
        """
        if name not in self._templates:
            self._templates[name] = self._read(name)
        return self._templates[name]

    def render(self, name: str, /, **values: Any) -> str:
        """Renders a template to text.

        Raises:
            PromptError: It is missing or broken, or uses a name that it is not given.
        """
        return _rendered(self.template(name), self.template(name).body, values)

    def opening(self, name: str, brief: Mapping[str, Any]) -> str:
        """Renders what a template's front matter says a role is told that speaks first; empty if it says nothing.

        Raises:
            PromptError: It uses a name that it is not given.
        """
        template = self.template(name)
        return _rendered(template, template.opening, {"brief": brief}) if template.opening else ""

    def names(self, prefix: str) -> tuple[str, ...]:
        """The names of all templates that begin so, without that beginning, in alphabetical order."""
        if prefix not in self._names:
            folders: list[Traversable] = [*self._folders, resources.files("tutelage.prompts")]
            files = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
            found = {
                name[len(prefix) : -len(".md")] for name in files if name.startswith(prefix) and name.endswith(".md")
            }
            self._names[prefix] = tuple(sorted(found))
        return self._names[prefix]

    def check(self, name: str, given: Sequence[str]) -> None:
        """Makes sure that a template uses no name but those it will be given, also where it is not rendered now.

        Raises:
            PromptError: It is missing or broken, or uses another name.
        """
        template = self.template(name)
        unknown = template.names - set(given) - set(self._environment.globals)
        if unknown:
            raise PromptError(
                f"prompt {name!r} ({template.source}) uses {', '.join(map(repr, sorted(unknown)))}, which it is not given; "
                f"it is given {', '.join(given)}"
            )

    def _read(self, name: str) -> Template:
        source, text = self._find(name)
        meta, body = _split_front_matter(source, text)
        try:
            opening = str(meta.get("opening", ""))
            names = jinja2.meta.find_undeclared_variables(self._environment.parse(body + opening))
            return Template(
                name=name,
                source=source,
                meta=meta,
                names=frozenset(names),
                body=self._environment.from_string(body),
                opening=self._environment.from_string(opening) if opening else None,
            )
        except jinja2.TemplateSyntaxError as error:
            raise PromptError(
                f"prompt {name!r} ({source}) is no valid template: line {error.lineno}: {error}"
            ) from error

    def _find(self, name: str) -> tuple[str, str]:
        for folder in self._folders:
            path = folder / f"{name}.md"
            if path.is_file():
                try:
                    return str(path), path.read_text(encoding="utf-8-sig")
                except (OSError, UnicodeDecodeError) as error:
                    raise PromptError(f"prompt {name!r} ({path}) cannot be read: {error}") from error
        built_in = resources.files("tutelage.prompts") / f"{name}.md"
        if built_in.is_file():
            return f"tutelage/prompts/{name}.md", built_in.read_text(encoding="utf-8")
        places = [str(folder) for folder in self._folders] + ["the built-in prompts"]
        raise PromptError(f"there is no prompt {name!r}: looked for {name}.md in {' and '.join(places)}")


def _rendered(template: Template, part: jinja2.Template, values: Mapping[str, Any]) -> str:
    try:
        return part.render(values).strip()
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise PromptError(
            f"prompt {template.name!r} ({template.source}) cannot be rendered: {error}. It is given "
            f"{', '.join(sorted(values))}; of the brief what is public, and what its agent declares in `sees`"
        ) from error


def _split_front_matter(source: str, text: str) -> tuple[Mapping[str, Any], str]:
    if not text.startswith("---\n"):
        return {}, text
    head, separator, body = text[4:].partition("\n---\n")
    if not separator:
        raise PromptError(f"prompt {source}: the front matter that begins with '---' has no closing '---' line")
    try:
        meta = yaml.safe_load(head) or {}
    except yaml.YAMLError as error:
        raise PromptError(f"prompt {source}: the front matter is no valid YAML: {error}") from error
    if not isinstance(meta, dict):
        raise PromptError(f"prompt {source}: the front matter must be `key: value` lines")
    return meta, body
