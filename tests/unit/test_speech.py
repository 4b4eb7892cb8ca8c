"""What is found in a turn, and what looks like it and is none."""

from typing import Any

import pytest

from tutelage.checks.artefacts import broken_off, label, meta_text, template_token
from tutelage.checks.languages import slipped_into
from tutelage.checks.praise import false_praise
from tutelage.checks.roles import speaks_as_other
from tutelage.checks.similarity import adds_nothing, repeated
from tutelage.dialogue.brief import Brief, Misconception
from tutelage.dialogue.turn import Turn

RAIN = "First the sun heats the water and then it rises and cools down."


@pytest.mark.parametrize(
    ("text", "speaker", "found"),
    [
        ("Tutor: Why?", "tutor", ("Tutor:", False)),
        ("Teacher: Why?", "tutor", ("Teacher:", False)),
        ("Why?\n\n**Student:** Because.", "tutor", ("**Student:", True)),
        ("Because. Tutor: Why?", "student", ("Tutor:", True)),
        ("Tutor: Why?\nStudent: Because.", "tutor", ("Student:", True)),
        ("Opponent: I disagree.", "proponent", ("Opponent:", True)),
        ("Human: hi\nAssistant: hello", "tutor", ("Human:", True)),
        ("Human: 46\nDog: 78", "tutor", None),
        ("The system: a gas in a box.", "tutor", None),
        ("Student A: 3 apples", "tutor", None),
        ("`Tutor: Why?` is a label.", "tutor", None),
        ("My teacher: Mrs Smith", "student", None),
        ("Why, student?", "tutor", None),
    ],
)
def test_labels(text: str, speaker: str, found: tuple[str, bool] | None) -> None:
    assert label(text, speaker, {"proponent", "opponent"}) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Why?<|im_end|>", "<|im_end|>"),
        ("<s>Why?", "<s>"),
        ("Why?</s>", "</s>"),
        ("### Response: Why?", "### Response:"),
        ("A template puts `<|im_end|>` there.", None),
        ("HTML has <s>old</s> for what no longer holds.", None),
        ("In F#, x <| f |> g", None),
        ("## Response to heat", None),
    ],
)
def test_template_tokens(text: str, found: str | None) -> None:
    assert template_token(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "Here's my next message: why?",
        "Response: Why?",
        "Why? (Note: As per the instruction, I ask only one question.)",
        "Sure! Here is a possible follow-up question: Why?",
        "Why? [End of conversation]",
        "Why? *waits for the student*",
        "Why? (pauses)",
        "The answer, which you keep to yourself, is 5/6.",
        "I will lead the student to find the answer. Why?",
        "Dear {name}, why?",
        "As an AI language model, I cannot know.",
        '{"utterance": "Why?"}',
        "Ich habe meine Antwort überarbeitet. Warum?",
    ],
)
def test_talk_about_the_reply(text: str) -> None:
    assert meta_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "Here is the next question: why?",
        "The plant's response: it grows toward the light.",
        "Divide by x (note: x is not 0).",
        "As an artist, he was unknown.",
        "You are a good student, and you keep your notes in order.",
        "The set {a, b} has two elements; {x: 1} is a dict.",
        "See [the table](table.html).",
        "Why? (Wait until it has cooled down.)",
        "That is in the last act (end of scene 2).",
        "Ich habe meine Antwort noch einmal geprüft.",
    ],
)
def test_what_only_sounds_like_talk_about_the_reply(text: str) -> None:
    assert meta_text(text) is None


@pytest.mark.parametrize(
    ("text", "finish_reason", "found"),
    [
        ("Why is it", "length", "Why is it"),
        ("Have a look at the two numbers and the", "stop", "two numbers and the"),
        ("Have a look at the two numbers and the ...", "stop", None),
        ("the or an", "stop", None),
        ("Why?", None, None),
    ],
)
def test_turns_that_broke_off(text: str, finish_reason: str | None, found: str | None) -> None:
    end = broken_off(text, finish_reason)
    assert end is None if found is None else end is not None and end.endswith(found)


@pytest.mark.parametrize(
    ("text", "speaker", "is_other"),
    [
        ("You're on the right track!", "student", True),
        ("You're on the right track!", "tutor", False),
        ('He said "You are on the right track".', "student", False),
        ("Let's start with the sum.", "student", False),
        ("Let's start with the sum. What do you think?", "student", True),
        ("Good question! I don't know how.", "student", False),
        ("Sure, let me walk you through it. First I added 3.", "student", False),
        ("Let me explain: I added the tops.", "student", False),
        ("I think your answer is wrong.", "student", False),
        ("Can you tell me how you got the 6?", "student", False),
        ("Can you explain your thinking?", "student", True),
        ("Can you teach me how to do this?", "tutor", True),
        ("My teacher once told me to draw it. Shall we?", "tutor", False),
        ("I don't understand this step. Why divide by 4?", "tutor", False),
        ("So I have 3x = 9. What do I do next?", "tutor", False),
        ("I'll review your answer. What is the unit?", "tutor", False),
        ("Can you help me understand your second step?", "tutor", False),
        ("Imagine I am new here: can you teach me how to do this?", "tutor", False),
        ("Can you teach me how to do this?", "moderator", False),
    ],
)
def test_speaking_as_the_other(text: str, speaker: str, is_other: bool) -> None:
    assert (speaks_as_other(text, speaker) is not None) == is_other


@pytest.mark.parametrize(
    ("text", "language", "about", "slip"),
    [
        ("Warum ist das so, und was kommt dann nach dem Komma?", "en", "", "de"),
        ("Why is it so, and what is there after the comma?", "de-AT", "", "en"),
        ("Почему тяжёлый шар падает быстрее?", "English", "", "ru"),
        ("为什么重的球落得更快呢?请想一想再回答。", None, "Free fall", "zh"),
        ("为什么重的球落得更快呢?请想一想再回答。", None, "自由落体", None),
        ("为什么重的球落得更快呢?请想一想再回答。", "zh-CN", "", None),
        ("Ayer fui al mercado con mi madre y no compré nada.", "en", "", "es"),
        ("Ayer fui al mercado con mi madre y no compré nada.", "en", "Spanish: the past", None),
        ('Say: "Warum ist das so, und was kommt dann nach dem Komma?"', "en", "", None),
        ("Warum ist `if not x and y is not the z of it: that was it` falsch?", "de", "", None),
        ("λ = c / f", "en", "", None),
        ("Why is it so, and what is there after the comma?", "Klingon", "Grammar", None),
        ("Miksi raskas pallo putoaa nopeammin kuin kevyt pallo?", "fi", "", None),
    ],
)
def test_slips_into_another_language(text: str, language: str | None, about: str, slip: str | None) -> None:
    assert slipped_into(text, language, about) == slip


@pytest.mark.parametrize(
    ("heard", "said", "found"),
    [
        ("2/5", "Correct!", "Correct"),
        ("So I get 2/5.", "Well done, Ana!", "Well done"),
        ("It is not 2/5.", "Correct!", None),
        ("First 2/5. But now I think it is more.", "Correct!", None),
        ("2/5, no, 5/6", "Correct!", None),
        ("2/5", "Correct, but is that more than 1/2?", None),
        ("2/5", "Well done for adding something to something.", None),
        ("2/5", "You are right that we add.", None),
        ("2/5", "Why 2/5?", None),
    ],
)
def test_praise_for_the_misconceptions_answer(heard: str, said: str, found: str | None) -> None:
    brief = Brief(id="b", answer=("5/6",), misconception=Misconception(belief="?", predicts="2/5"))
    turns = [Turn(index=0, role="student", text=heard, attempts=[])]
    assert false_praise(said, turns, brief) == found
    assert false_praise(said, turns, Brief(id="b", answer=("5/6",))) is None
    assert false_praise(said, [], brief) is None


@pytest.mark.parametrize(
    ("text", "earlier", "again"),
    [
        (RAIN, ["Hm.", RAIN], RAIN),
        (f"Yes. {RAIN}", [RAIN], RAIN),
        (RAIN.replace("cools", "warms"), [RAIN], None),
        (
            "I put 2 into the formula for the sum and I get 7.",
            ["I put 2 into the formula for the sum and I get 9."],
            None,
        ),
        ("We take 1/2 + 1/3 of it and then we see.", ["We take 1/2 - 1/3 of it and then we see."], None),
        ("How did you get that?", ["How did you get that?"], None),
        (RAIN, [], None),
    ],
)
def test_saying_it_again(text: str, earlier: list[str], again: str | None) -> None:
    assert repeated(text, earlier) == again


@pytest.mark.parametrize(
    ("texts", "before", "nothing"),
    [
        (["Is it heavy?", "Yes, heavy."], ["The heavy one."], True),
        (["Is it heavy?", "Yes, a hammer."], ["The heavy one."], False),
        (["Add 3/6 and 2/6.", "Okay."], ["We have 3/6 and 2/6, and add."], True),
        (["3/6 + 2/6", "Okay."], ["We have 3/6 and 2/6."], False),
        (["A start?", "An art."], ["The start."], False),
        (["Hammer", "Hammer"], ["Why?"], False),
    ],
)
def test_adding_nothing(texts: list[str], before: list[str], nothing: bool) -> None:
    assert adds_nothing(texts, before) is nothing


def test_a_language_without_a_lexicon_raises_no_alarm() -> None:
    said: dict[str, Any] = {
        "fr": "Très bien, merci ! Et pourquoi est-ce que le dénominateur change ?",
        "ja": "そうですね。では、分母はどうなりますか。",
        "pl": "Dobrze, a dlaczego mianownik się zmienia, kiedy dodajesz ułamki?",
        "ar": "حسنا، ولماذا يتغير المقام عندما نجمع الكسور؟",
    }
    for language, text in said.items():
        for role in ("tutor", "student"):
            assert not meta_text(text) and not label(text, role) and not speaks_as_other(text, role)
        assert slipped_into(text, language) is None
