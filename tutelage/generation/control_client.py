"""What `tutelage status`, `pause`, `resume`, `drain`, `reload` and `retry` say to the daemon of a run folder."""

import http.client
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from tutelage.errors import RunFolderError, TutelageError, UserError
from tutelage.generation import control_socket
from tutelage.transcripts.terminal import clean

PATIENCE: Final = 60.0
"""Seconds that a daemon has to answer; reading a config and its prompts again takes a while on a busy machine."""
LOOK_AGAIN: Final = 0.2
"""Seconds between two looks whether a daemon has ended."""


class ControlClient:
    """Speaks to the daemon of a run folder. Each call is a connection of its own, and blocks.

    Args:
        folder: The run folder, as `find_run` gives it.
        timeout: Seconds that the daemon has to answer.

    All methods raise:
        RunFolderError: No daemon runs there, or it is another user's.
        UserError: The daemon refused, with its reason.
        TutelageError: It did not answer, or failed.
    """

    def __init__(self, folder: Path, *, timeout: float = PATIENCE) -> None:
        self._folder = folder
        self._timeout = timeout

    def status(self) -> dict[str, Any]:
        """How it stands: for `render_status`, or to be printed as it is."""
        return self._ask("GET", "/status")

    def pause(self) -> str:
        """Has it begin nothing new. Returns the state that it is in now, as do the next two."""
        return str(self._ask("POST", "/pause")["state"])

    def resume(self) -> str:
        """Takes back a pause."""
        return str(self._ask("POST", "/resume")["state"])

    def drain(self) -> str:
        """Has it come to its end, and does not wait for that."""
        return str(self._ask("POST", "/drain")["state"])

    def reload(self) -> list[str]:
        """Has it read its config again. Returns the keys that changed."""
        return list(self._ask("POST", "/reload")["changed"])

    def retry(self, ids: Sequence[str] = ()) -> int:
        """Has dialogues that were set aside owed again: these, or all. Returns how many."""
        return int(self._ask("POST", "/retry", {"ids": list(ids)})["retried"])

    def ended_within(self, seconds: float) -> bool:
        """Waits for it to end, after a drain, and says whether it did."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                control_socket.connected_socket(self._folder, self._timeout).close()
            except OSError:
                return True
            time.sleep(LOOK_AGAIN)
        return False

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        connection = _Connection(self._folder, self._timeout)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else orjson.dumps(body), headers)
            response = connection.getresponse()
            answer: dict[str, Any] = orjson.loads(response.read())
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise RunFolderError(
                f"no daemon runs in {str(self._folder)!r}: `tutelage daemon CONFIG` starts one, "
                "`tutelage stats RUN` counts what is done"
            ) from error
        except PermissionError as error:
            raise RunFolderError(f"the daemon in {str(self._folder)!r} is another user's: ask as that user") from error
        except TimeoutError as error:
            raise TutelageError(
                f"the daemon in {str(self._folder)!r} has not answered for {self._timeout:.0f} s: look at its log"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TutelageError(
                f"the daemon in {str(self._folder)!r} has ended while it was asked ({error!r})"
            ) from error
        finally:
            connection.close()
        if response.status == 200:
            return answer
        raise (UserError if response.status < 500 else TutelageError)(clean(str(answer.get("error", answer))))


class _Connection(http.client.HTTPConnection):
    """HTTP on the socket of a run folder."""

    def __init__(self, folder: Path, timeout: float) -> None:
        super().__init__("localhost")
        self._folder = folder
        self._seconds = timeout

    def connect(self) -> None:
        self.sock = control_socket.connected_socket(self._folder, self._seconds)
