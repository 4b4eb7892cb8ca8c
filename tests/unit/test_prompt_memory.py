"""What an endpoint was sent before, and whether it finds it again."""

from tutelage.serving import prompt_memory
from tutelage.serving.prefix_witness import FEWEST, PrefixWitness
from tutelage.serving.prompt_memory import CHUNK, PromptMemory


def test_of_a_prompt_that_goes_on_with_the_last_one_that_is_known() -> None:
    memory = PromptMemory()
    beginning = bytes(range(256)) * 16
    assert memory.share("d/tutor", beginning) == 0
    assert memory.share("d/tutor", beginning + b"and so on" * 400) == len(beginning) / (len(beginning) + 3600)


def test_what_is_no_longer_the_same_is_not_known_from_there_on() -> None:
    memory = PromptMemory()
    memory.share("d/tutor", b"a" * 4 * CHUNK)
    assert memory.share("d/tutor", b"a" * 2 * CHUNK + b"b" + b"a" * 2 * CHUNK) == 2 * CHUNK / (4 * CHUNK + 1)


def test_each_conversation_has_a_memory_of_its_own() -> None:
    memory = PromptMemory()
    memory.share("d/tutor", b"a" * 4 * CHUNK)
    assert memory.share("d/student", b"a" * 4 * CHUNK) == 0


def test_the_conversation_that_was_longest_silent_is_forgotten() -> None:
    memory = PromptMemory()
    body = b"a" * 4 * CHUNK
    for number in range(prompt_memory.REMEMBERED + 1):
        memory.share(str(number), body)
    assert memory.share("1", body) == 1
    assert memory.share("0", body) == 0


def answered(witness: PrefixWitness, times: int, *, known: int, cached: int) -> None:
    for _ in range(times):
        witness.answered(known=known, cached=cached)


def test_the_witness_says_what_part_of_the_beginnings_was_evicted() -> None:
    witness = PrefixWitness()
    answered(witness, 30, known=300, cached=288)
    answered(witness, 10, known=300, cached=16)
    assert witness.share(40) == 0.25


def test_long_beginnings_count_for_more() -> None:
    witness = PrefixWitness()
    answered(witness, 30, known=100, cached=96)
    answered(witness, 10, known=700, cached=16)
    assert witness.share(40) == 0.7


def test_a_few_prompts_say_nothing() -> None:
    witness = PrefixWitness()
    answered(witness, FEWEST - 1, known=300, cached=16)
    assert witness.share(1) is None
    answered(witness, 1, known=300, cached=16)
    assert witness.share(1) == 1
    assert witness.share(FEWEST + 1) is None


def test_where_nothing_is_ever_found_there_is_no_cache_to_spare() -> None:
    witness = PrefixWitness()
    answered(witness, 100, known=300, cached=0)
    assert witness.share(1) is None


def test_what_was_decided_before_a_change_does_not_count() -> None:
    witness = PrefixWitness()
    witness.begin(settling=50)
    answered(witness, 50, known=300, cached=16)
    answered(witness, FEWEST, known=300, cached=288)
    assert witness.share(1) == 0
