"""Log-probabilities in Parquet: what is packed is what was said, within what half-precision numbers can hold."""

import math
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tutelage.exports.logprobs import (
    CLOSES_WITHIN,
    COLUMNS,
    LogprobFile,
    Mode,
    Place,
    ScoredTurn,
    as_half,
    closing_tail,
    columns_of,
    packed,
    read_ids,
    schema_of,
    tail_of,
)

IDENTITY = {
    "id": "d1/2",
    "dialogue": "d1",
    "brief": "b1",
    "role": "tutor",
    "turn": 2,
    "text": "So?",
    "written_by": "tiny+a",
}
SHARED = {
    "tokenizer_sha": "t" * 64,
    "chat_template_sha": "c" * 64,
    "model": "tiny",
    "adapter": "a",
    "logprobs_mode": "raw_logprobs",
}
HALF, QUARTER, EIGHTH = math.log(0.5), math.log(0.25), math.log(0.125)


def turn(*places: Place, begin: int = 2) -> ScoredTurn:
    ids = [*range(begin), *(100 + number for number in range(len(places)))]
    return ScoredTurn(identity=IDENTITY, input_ids=ids, begin=begin, places=places)


def table(mode: Mode, *turns: ScoredTurn) -> pa.Table:
    return packed(turns, mode, SHARED, schema_of(mode))


def test_a_turn_becomes_this_row() -> None:
    said = Place(ids=[100, 7], logprobs=[HALF, QUARTER], logprob=HALF, tail=QUARTER)
    outside = Place(ids=[9, 8], logprobs=[HALF, QUARTER], logprob=EIGHTH, tail=QUARTER)
    [row] = table("topk", turn(said, outside)).to_pylist()
    half, quarter, eighth = map(as_half, (HALF, QUARTER, EIGHTH))
    assert row == {
        **IDENTITY,
        "input_ids": [0, 1, 100, 101],
        "loss_mask": [0, 0, 1, 1],
        "topk_ids": [[100, 7], [9, 8]],
        "topk_logprobs": [[half, quarter], [half, quarter]],
        "tail_logmass": [quarter, quarter],
        "token_logprobs": [half, eighth],
        **SHARED,
    }


@pytest.mark.parametrize("mode", ["topk", "sampled"])
def test_the_types_are_those_that_are_promised(mode: Mode) -> None:
    schema = schema_of(mode)
    assert schema.names == columns_of(mode)
    assert set(schema.names) <= set(COLUMNS)
    assert schema.field("input_ids").type == pa.list_(pa.uint32())
    assert schema.field("tail_logmass").type == pa.list_(pa.float16())
    kept = "topk" if mode == "topk" else "sampled"
    assert schema.field(f"{kept}_ids").type == pa.list_(pa.list_(pa.uint32()))
    assert schema.field(f"{kept}_logprobs").type == pa.list_(pa.list_(pa.float16()))


def test_the_largest_id_and_the_least_logprob_fit() -> None:
    # vLLM gives -9999 for what is impossible.
    place = Place(ids=[2**32 - 1], logprobs=[0.0], logprob=-9999.0, tail=-math.inf)
    [row] = table("topk", turn(place)).to_pylist()
    assert row["topk_ids"] == [[2**32 - 1]]
    assert row["tail_logmass"] == [-math.inf]
    assert row["token_logprobs"][0] < -9000


def test_a_token_that_was_drawn_twice_counts_once_in_the_tail() -> None:
    place = Place(ids=[5, 5, 6], logprobs=[HALF, HALF, QUARTER], logprob=HALF, tail=QUARTER)
    [row] = table("sampled", turn(place)).to_pylist()
    assert row["sampled_ids"] == [[5, 5, 6]]
    listed = dict(zip(row["sampled_ids"][0], row["sampled_logprobs"][0], strict=True))
    assert sum(map(math.exp, listed.values())) + math.exp(row["tail_logmass"][0]) == pytest.approx(1, abs=1e-3)


def test_turns_of_any_lengths_keep_their_own_numbers() -> None:
    first = Place(ids=[1, 2], logprobs=[HALF, QUARTER], logprob=HALF, tail=QUARTER)
    second = Place(ids=[3], logprobs=[EIGHTH], logprob=EIGHTH, tail=math.log(0.875))
    rows = table("topk", turn(first, second), turn(second), turn(first, first, first, begin=5)).to_pylist()
    assert [row["topk_ids"] for row in rows] == [[[1, 2], [3]], [[3]], [[1, 2]] * 3]
    assert [len(row["topk_logprobs"]) for row in rows] == [2, 1, 3]
    assert [row["loss_mask"] for row in rows] == [[0, 0, 1, 1], [0, 0, 1], [0] * 5 + [1] * 3]


def test_what_is_left_beside_the_listed_tokens() -> None:
    assert tail_of([HALF, QUARTER]) == pytest.approx(QUARTER)
    assert tail_of([0.0]) == -math.inf
    assert tail_of([HALF, HALF, 1e-7]) == -math.inf, "rounding may bring the sum above 1"


@pytest.mark.parametrize("k", [1, 2, 20, 50, 128])
@pytest.mark.parametrize("sharpness", [0.0, 0.5, 2.0, 8.0])
def test_the_probabilities_of_a_place_add_up_to_one_after_rounding(k: int, sharpness: float) -> None:
    rng = Random(k)
    for _ in range(30):
        weights = [math.exp(rng.gauss(0, sharpness)) for _ in range(k + 200)]
        logprobs = sorted((math.log(each / sum(weights)) for each in weights), reverse=True)[:k]
        tail = as_half(closing_tail(logprobs, tail_of(logprobs)))
        rounded = sum(math.exp(as_half(each)) for each in logprobs)
        assert rounded + math.exp(tail) == pytest.approx(1, abs=CLOSES_WITHIN)


def test_a_tail_that_rounding_does_not_touch_is_the_true_one() -> None:
    logprobs = [math.log(0.9), math.log(0.09999)]
    assert closing_tail(logprobs, tail_of(logprobs)) == tail_of(logprobs) == pytest.approx(math.log(1e-5), abs=1e-6)


def test_fifty_tokens_that_are_equally_likely_still_add_up_to_one() -> None:
    # All round to the same side: without the tail they would miss 1 by more than half the promise.
    logprobs = [math.log(0.9 / 50)] * 50
    drift = sum(math.exp(as_half(each)) for each in logprobs) - 0.9
    assert abs(drift) > CLOSES_WITHIN / 2
    assert math.exp(closing_tail(logprobs, math.log(0.1))) == pytest.approx(0.1 - drift, abs=1e-6)


@pytest.mark.parametrize(("below", "error"), [(1, 2.5e-4), (2, 5e-4), (4, 1e-3), (8, 2e-3)])
def test_the_error_of_half_precision_is_what_the_card_says(below: int, error: float) -> None:
    rng = Random(0)
    worst = max(abs(as_half(value) - value) for value in (-rng.uniform(0, below) for _ in range(20_000)))
    assert 0.9 * error / 2 < worst <= error


def test_a_file_can_be_read_back_and_a_torn_one_says_so(tmp_path: Path) -> None:
    place = Place(ids=[1], logprobs=[HALF], logprob=HALF, tail=HALF)
    file = LogprobFile(tmp_path / "a.parquet", "topk", SHARED)
    file.write([turn(place), turn(place, place)])
    file.write([turn(place)])
    file.close()
    assert pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(0).compression == "ZSTD"
    assert list(read_ids(tmp_path / "a.parquet")) == ["d1/2"] * 3
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(OSError, match=r"torn\.parquet is no whole Parquet file"):
        list(read_ids(tmp_path / "torn.parquet"))
