"""messages.jsonl: every prompt of a run, each part once, rebuilt byte for byte."""

import gc
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tutelage.dialogue.prompt import Message, Prompt
from tutelage.errors import RunFolderError
from tutelage.transcripts import messages
from tutelage.transcripts.messages import MessageLog, Prompts

SYSTEM = Message("system", ("You are a tutor.",))
FIRST = Prompt((SYSTEM, Message("user", ("Begin.",))))
SECOND = Prompt(
    (*FIRST.messages, Message("assistant", ("What is 1/2?",)), Message("user", ("Half a\u2028cake… \n\n½",)))
)
JUDGED = Prompt((SYSTEM, Message("user", ("So far:", "Tutor:", "What is 1/2?", "", "Judge."))))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Appends to a run's messages.jsonl."""

    def append(lines: bytes) -> Path:
        with (tmp_path / "messages.jsonl").open("ab") as file:
            file.write(lines)
        return tmp_path

    return append


def logged(*prompts: Prompt) -> bytes:
    log = MessageLog()
    for prompt in prompts:
        log.keep("d0", prompt)
    return log.take()


def test_every_prompt_is_rebuilt_byte_for_byte(write: Callable[[bytes], Path]) -> None:
    with Prompts(write(logged(FIRST, SECOND, JUDGED))) as prompts:
        for prompt in (JUDGED, FIRST, SECOND):
            assert prompts.messages(prompt.sha256) == prompt.as_dicts()


def test_prompts_that_begin_alike_share_their_beginning() -> None:
    both = logged(FIRST, SECOND).splitlines()
    assert both[: len(logged(FIRST).splitlines())] == logged(FIRST).splitlines()
    assert len(set(both)) == len(both) == 2 * 4  # four texts, four links


def test_a_text_is_kept_once_however_often_it_is_said() -> None:
    texts = [record["text"] for line in logged(SECOND, JUDGED).splitlines() if "text" in (record := orjson.loads(line))]
    assert texts.count("What is 1/2?") == 1


def test_what_dialogues_share_is_kept_once() -> None:
    log = MessageLog()
    log.keep("d0", FIRST)
    log.take()
    log.keep("d1", FIRST)
    assert log.take() == b""


def test_what_was_forgotten_is_kept_again(monkeypatch: pytest.MonkeyPatch, write: Callable[[bytes], Path]) -> None:
    monkeypatch.setattr(messages, "_SHARED", 1)
    log = MessageLog()
    log.keep("d0", FIRST)
    write(log.take())
    log.forget("d0")
    log.keep("d1", FIRST)
    again = log.take()
    assert again
    with Prompts(write(again)) as prompts:
        assert prompts.messages(FIRST.sha256) == FIRST.as_dicts()


def test_a_torn_line_hides_nothing_that_was_written_again(write: Callable[[bytes], Path]) -> None:
    """A crash tears a line; the next process appends, on the same line and on new ones."""
    whole = logged(FIRST)
    torn = whole[: whole.rindex(b'"text_sha256"') + 20]
    with Prompts(write(torn + b"\n" + b'{"foreign": 1}\nno json\n' + whole)) as prompts:
        assert prompts.messages(FIRST.sha256) == FIRST.as_dicts()


def test_hashes_that_begin_alike_are_told_apart(write: Callable[[bytes], Path]) -> None:
    text_sha256 = "a" * 64
    one, two = "0" * 63 + "1", "0" * 63 + "2"
    link = {"parent": None, "role": "user", "opens": True, "text_sha256": text_sha256}
    records = [
        {"sha256": two, **link, "role": "system"},
        {"sha256": text_sha256, "text": "Hi"},
        {"sha256": one, **link},
    ]
    with Prompts(write(b"".join(orjson.dumps(record) + b"\n" for record in records))) as prompts:
        assert prompts.messages(one) == [{"role": "user", "content": "Hi"}]
        assert prompts.messages(two) == [{"role": "system", "content": "Hi"}]


def test_the_parent_is_the_prompt_without_its_last_part(write: Callable[[bytes], Path]) -> None:
    *before, last = FIRST.messages
    noted = Prompt((*before, Message(last.role, (*last.parts, "A note."))))
    with Prompts(write(logged(noted))) as prompts:
        assert prompts.parent(noted.sha256) == FIRST.sha256
        assert prompts.parent(Prompt((SYSTEM,)).sha256) is None


@pytest.mark.parametrize("sha256", ["f" * 64, "", "no hash", "F" * 64])
def test_a_prompt_that_is_not_there_is_a_key_error(write: Callable[[bytes], Path], sha256: str) -> None:
    with Prompts(write(logged(FIRST))) as prompts, pytest.raises(KeyError):
        prompts.messages(sha256)


def test_a_run_without_messages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no messages\.jsonl"):
        Prompts(tmp_path)


def test_the_file_is_closed_when_nobody_needs_it_any_more(write: Callable[[bytes], Path]) -> None:
    """A file left open is a ResourceWarning, which is an error here."""
    assert Prompts(write(logged(FIRST))).messages(FIRST.sha256)
    gc.collect()
