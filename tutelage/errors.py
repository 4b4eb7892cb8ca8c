"""What can go wrong, one type for each boundary that a failure crosses.

A model's failure is data, not a crash: it ends one dialogue, whose transcript says why (`reason`), and the run goes on.
What the user can mend ends the command with exit code 2 and a message that says what happened, then what to do.

    TutelageError
    ├── UserError                 the user can mend it: exit code 2
    │   ├── ConfigError             the config file, or a key in it
    │   ├── BriefError              a briefs file, or a line in it
    │   ├── DocumentError           a document that claims are checked against
    │   ├── PromptError             a template: missing, broken, or asking for what its role may not see
    │   ├── GraphError              a graph: does not import, or is no graph
    │   ├── RunFolderError          a run folder: another config's, in use, not there
    │   ├── ExportError             an export that cannot be written as asked
    │   ├── LaunchError             a vLLM server could not be started
    │   └── EmbeddedError           the embedded model could not be fetched or started
    └── CallError                 a model call: fails the dialogue, with `reason`
        ├── EndpointUnreachable     no replica answered, after all retries: the dialogue stays owed, the run stops (exit 3)
        ├── EndpointFailed          the endpoint answers other requests, but not this one: fails its dialogue
        ├── EndpointRefused         the endpoint refused the request and would again
        │   ├── ContextExceeded       prompt and completion do not fit the model's context
        │   ├── SchemaRefused         the endpoint cannot follow the schema
        │   ├── AuthRefused           the key is missing or wrong
        │   └── ModelNotServed        the endpoint does not serve that model or adapter
        ├── ShapeError              the reply does not fit what was asked for, after the repairs
        └── CheckerFailed           a tool, a document or the sandbox could not do its work
"""

from collections.abc import Sequence
from typing import ClassVar


class TutelageError(Exception):
    """The root of all errors raised by Tutelage."""

    exit_code: ClassVar[int] = 1
    """What the command exits with when this error ends it."""


class UserError(TutelageError):
    """Something that the user can mend."""

    exit_code = 2


class ConfigError(UserError):
    """The config file, or a key in it."""


class BriefError(UserError):
    """A briefs file, or a line in it."""


class DocumentError(UserError):
    """A document that claims are checked against cannot be read, or has no text."""


class PromptError(UserError):
    """A prompt template is missing, broken, or asks for what its role may not see."""


class GraphError(UserError):
    """A graph does not import, or is no graph."""


class RunFolderError(UserError):
    """A run folder is another config's, in use by another process, or not there."""


class ExportError(UserError):
    """An export cannot be written as asked."""


class LaunchError(UserError):
    """A vLLM server could not be started; the message ends with the last lines of its log."""


class CallError(TutelageError):
    """A model call that failed for good."""

    reason: ClassVar[str] = "call_failed"
    """What the transcript's `outcome.reason` says."""
    may_heal: ClassVar[bool] = False
    """Whether the run tries the dialogue again later, from its last checkpoint."""

    def __init__(self, message: str, replies: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.replies = replies
        """Replies before it that could not be used, for the transcript's `unfinished`."""


class EndpointUnreachable(CallError):
    """No replica of a model answered, after all retries."""

    exit_code = 3
    reason = "endpoint_unreachable"


class EndpointFailed(CallError):
    """The endpoint is there, but never answered this request, after all retries."""

    reason = "endpoint_failed"
    may_heal = True


class EndpointRefused(CallError):
    """The endpoint refused the request, and would refuse it again."""

    exit_code = 2
    reason = "endpoint_refused"


class ContextExceeded(EndpointRefused):
    """Prompt and completion do not fit the model's context."""

    reason = "context_exceeded"


class SchemaRefused(EndpointRefused):
    """The endpoint cannot follow the schema that a reply was to have."""

    reason = "schema_refused"


class AuthRefused(EndpointRefused):
    """The endpoint wants a key, or another one."""

    reason = "auth_refused"


class ModelNotServed(EndpointRefused):
    """The endpoint does not serve that model or adapter."""

    reason = "model_not_served"


class ShapeError(CallError):
    """A reply is empty or does not fit its schema, after the repairs."""

    reason = "wrong_shape"
    may_heal = True


class CheckerFailed(CallError):
    """What checks a turn could not do its work: a tool, a document, the sandbox."""

    reason = "checker_failed"
    may_heal = True


class EmbeddedError(UserError):
    """The embedded model could not be fetched or started."""
