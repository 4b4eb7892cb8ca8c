"""When a server that runs is given up."""

from tutelage.serving.engine_load import EngineLoad
from tutelage.serving.vital_signs import Supervision, VitalSigns

PATIENCE = Supervision(sick=20, silent=120, stuck=600)


def load(*, running: int = 1, tokens: int = 0) -> EngineLoad:
    return EngineLoad(
        running=running,
        waiting=0,
        kv_usage=None,
        preemptions=0,
        prefix_queries=0,
        prefix_hits=0,
        prompt_tokens=0,
        generation_tokens=tokens,
    )


def test_one_that_answers_is_kept() -> None:
    signs = VitalSigns(PATIENCE, 0)
    assert [signs.verdict(now, 200, load(tokens=now)) for now in range(0, 10_000, 5)] == [None] * 2000


def test_one_that_says_it_is_dead_is_given_up_soon() -> None:
    signs = VitalSigns(PATIENCE, 0)
    assert signs.verdict(20, 503, None) is None
    assert "its engine is dead" in str(signs.verdict(21, 503, None))


def test_one_that_answers_nothing_is_given_up_later() -> None:
    signs = VitalSigns(PATIENCE, 0)
    assert signs.verdict(100, None, None) is None
    assert signs.verdict(105, 200, None) is None, "it was only busy"
    assert signs.verdict(220, None, None) is None
    assert "no answer on /health for 121 s" in str(signs.verdict(226, None, None))


def test_one_whose_engine_makes_no_token_of_what_it_has_is_given_up() -> None:
    """Its `/health` is 200 all the time."""
    signs = VitalSigns(PATIENCE, 0)
    assert signs.verdict(5, 200, load(tokens=7)) is None
    assert signs.verdict(600, 200, load(tokens=7)) is None
    assert "made no token for 601 s" in str(signs.verdict(606, 200, load(tokens=7)))


def test_one_that_has_nothing_to_do_need_make_no_token() -> None:
    signs = VitalSigns(PATIENCE, 0)
    for now in range(0, 5000, 5):
        assert signs.verdict(now, 200, load(running=0, tokens=7)) is None
    assert signs.verdict(5100, 200, load(running=1, tokens=7)) is None
