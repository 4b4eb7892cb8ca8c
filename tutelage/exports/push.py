"""Sends an export to the Hugging Face Hub as a data set, by the Hub's own library. What is on disk stays as it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tutelage.errors import ExportError
from tutelage.exports.manifest import FILE as MANIFEST
from tutelage.exports.manifest import read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_OF_THE_HUB: Final = frozenset({".gitattributes", "README.md"})
"""Files that the Hub itself puts into a new data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What was sent where."""

    name: str
    url: str
    commit: str
    """The id of the commit on the Hub that has it."""
    public: bool

    def __str__(self) -> str:
        who = "everybody can see it" if self.public else "private"
        return f"pushed to {self.url} ({who}), commit {self.commit[:12]}"


def check_push(name: str) -> None:
    """Finds out, before an export is made, what would keep it from being pushed, as far as that is known here.

    Raises:
        ExportError: The library is not installed, the name is none, or there is no token.
    """
    hub = _hub()
    if not _NAME.fullmatch(name) or "--" in name or ".." in name:
        raise ExportError(f"{name!r} is no name of a data set: write it like my-name/my-dataset")
    if hub.get_token() is None:
        raise ExportError(
            "there is no token for the Hub: set HF_TOKEN to one that may write (https://huggingface.co/settings/tokens), "
            "or log in with `hf auth login`"
        )


def push(export: Path | str, name: str, *, public: bool = False) -> Pushed:
    """Sends an export to the Hub, as a data set that takes the place of what an earlier export put there.

    The token, the address of the Hub and whether it may be reached at all are the library's to know: HF_TOKEN,
    HF_ENDPOINT, HF_HUB_OFFLINE.

    Args:
        export: The export's folder.
        name: The data set's name on the Hub, with its owner's: `my-name/my-dataset`. Made if it is not there.
        public: Whether everybody may see it. Without it, a data set is made private, and one that everybody sees already
            gets nothing.

    Raises:
        ExportError: It is no export, the Hub refused it or cannot be reached, or the data set there is another one's.
    """
    export = Path(export)
    read_manifest(export)
    check_push(name)
    hub = _hub()
    try:
        api = hub.HfApi(library_name="tutelage")
        url = api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
        folders = [entry.name for entry in export.iterdir() if entry.is_dir()]
        _refuse_what_is_there(api, name, folders, public=public)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=export,
            repo_type="dataset",
            commit_message="Tutelage export",
            delete_patterns=[
                f"{folder}/*" for folder in folders
            ],  # shards of an earlier export, which had more of them, would be read as rows
        )
    except _what_the_library_raises(hub) as error:
        raise ExportError(_told(error, name, export)) from error
    return Pushed(name=name, url=str(url), commit=str(commit.oid), public=public)


def _refuse_what_is_there(api: "HfApi", name: str, folders: Sequence[str], *, public: bool) -> None:
    there = api.dataset_info(name)
    if not public and there.private is False:
        raise ExportError(
            f"the data set {name!r} is there already, and everybody can see it: nothing was sent. Choose another name, make "
            "it private on the Hub, or push with --public"
        )
    files = {each.rfilename for each in there.siblings or ()}
    if files - _OF_THE_HUB and MANIFEST not in files:
        raise ExportError(
            f"the data set {name!r} is there already and holds no export of Tutelage's: nothing was sent. Choose another "
            "name, or empty it on the Hub"
        )
    others = sorted({top for top, _, rest in (file.partition("/") for file in files) if rest and top not in folders})
    if others:
        raise ExportError(
            f"the data set {name!r} has rows that would stay beside the new ones, for they are laid out otherwise "
            f"({', '.join(others[:3])}): nothing was sent. Empty it on the Hub, or choose another name"
        )


def _told(error: BaseException, name: str, export: Path) -> str:
    """What happened, and what to do about it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kept = f"the export stays in {str(export)!r}"
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    match status:
        case 401:
            return f"the Hub does not know the token in HF_TOKEN: make one that may write; {kept} ({said})"
        case 403:
            return (
                f"the token may not write to {name!r}: give it write access, or choose another owner; {kept} ({said})"
            )
        case None:
            return (
                f"the Hub cannot be reached: check the network and HF_ENDPOINT, then `tutelage push`; {kept} ({said})"
            )
    return f"the Hub refused {name!r} with status {status}: {said}; {kept}"


def _what_the_library_raises(hub: Any) -> tuple[type[BaseException], ...]:
    # Its HTTP library's errors, whichever that is by now, and those of the transfer of large files, which is Rust.
    return (hub.errors.HTTPError, OSError, RuntimeError, ValueError)


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ExportError("pushing needs the Hub's library: pip install 'tutelage[push]'") from error
    return huggingface_hub
