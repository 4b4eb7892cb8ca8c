"""Personal data: what is replaced, and above all what is not."""

import pytest

from tutelage.quality.personal_data import scrubbed

PERSONAL = [
    ("Write to anna.maria+x@mail.example.org, please.", "Write to [EMAIL], please."),
    ("<jürgen@bücher.example.de>", "<[EMAIL]>"),
    ("Call +49 30 1234567 or 0171/234 56 78.", "Call [PHONE] or [PHONE]."),
    ("+1 (555) 234-5678, (555) 123-4567, 555-123-4567 or 555.123.4567!", "[PHONE], [PHONE], [PHONE] or [PHONE]!"),
    ("In Paris 01 23 45 67 89, in London 020 7946 0958.", "In Paris [PHONE], in London [PHONE]."),
    ("From abroad 0049 30 1234567.", "From abroad [PHONE]."),
    ("Tel. 123 45 67 or telephone: 555-0199", "Tel. [PHONE] or telephone: [PHONE]"),
    ("It came from 192.168.0.17 and 2001:db8:85a3::8a2e:370:7334.", "It came from [IP] and [IP]."),
    ("4111 1111 1111 1111, 5500-0000-0000-0004 or 378282246310005", "[CARD], [CARD] or [CARD]"),
    ("To DE89 3704 0044 0532 0130 00 or GB82WEST12345698765432.", "To [IBAN] or [IBAN]."),
    ("git clone https://bob:secret@example.org/x", "git clone https://[LOGIN]@example.org/x"),
]
LESSONS = [
    "3,600 and 12.5, or 1.000.000.000",
    "f(x) = 2x + 3, so f(10) = 23",
    "192 - 168 = 24",
    "x +12345678 = 3",
    "555-123-4567 = -4135",
    "100-200-3000",
    "2 4 8 16 32 64 128 256 512 1024",
    "0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144",
    "01 02 03 04 05",
    "05 10 15 20 25",
    "020 030 040 050",
    "1 000 000 000",
    "3.14159265358979323846",
    "1/2 + 1/3 = 5/6",
    "4111 1111 1111 1112",
    "1234 5678 9012 3456",
    "DE89 3704 0044 0532 0130 01",
    "See section 1.2.3.4 and version 2.0.1.",
    "256.300.1.1",
    "At 10:20:30, from 12:30 to 14:45",
    "2024-01-15, 01/02/2024, 15.01.2024, 01-15-2024",
    "from 1990-2000 and 2001-2010",
    "std::vector<int> and a::b",
    "0101 1100 1010 and 01011100 10101111",
    "ISBN 978-3-16-148410-0",
    "0.1 0.2 0.3 0.25 0.125",
    "a@b and f@2",
    "5 x 10^8 m/s, 6.022e23",
    "1 0 0\n0 1 0\n0 0 1",
    "https://example.org:8080/path?at=10",
    "Telephone numbers have 7 digits.",
    "00 11 22 33 44",
]


@pytest.mark.parametrize(("text", "without"), PERSONAL)
def test_personal_data_gives_way_to_a_placeholder(text: str, without: str) -> None:
    assert scrubbed(text)[0] == without


@pytest.mark.parametrize("text", LESSONS)
def test_the_numbers_of_a_lesson_stay(text: str) -> None:
    assert scrubbed(text) == (text, ())


@pytest.mark.parametrize(("text", "without"), PERSONAL)
def test_each_place_is_where_its_placeholder_stands(text: str, without: str) -> None:
    _, replaced = scrubbed(text)
    assert replaced
    assert all(without[each.start :].startswith(each.placeholder) for each in replaced)
    assert len(replaced) == without.count("[")


def test_what_was_scrubbed_once_stays_as_it_is() -> None:
    for text, without in PERSONAL:
        assert scrubbed(scrubbed(text)[0]) == (without, ()), text


@pytest.mark.parametrize(
    "text", ["1" * 20_000, "a" * 20_000 + "@", "1-" * 10_000, "0 1" * 7_000, ":" * 20_000, "a." * 10_000]
)
def test_a_text_that_is_made_to_be_slow_is_not(text: str) -> None:
    import time

    before = time.process_time()
    scrubbed(text)
    assert time.process_time() - before < 2
