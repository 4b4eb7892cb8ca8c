"""When a dialogue is nothing but goodbyes, and when people are only polite."""

from itertools import product

import pytest

from tutelage.checks.farewells import IN_A_ROW, closing_turns, is_closing
from tutelage.dialogue.turn import Turn

# Composed, not collected: courtesies as people use them in the middle of a lesson, each beside what goes on with it. What
# they cannot show is how often people say "Thanks!", "You're welcome!" and then go on: the rule stops there.
THANKS = (
    "Thanks!",
    "Thank you so much!",
    "Oh okay, thank you.",
    "Thanks a lot, that helps!",
    "Ah, thanks for the hint!",
    "Great, thx",
    "Perfect, thank you very much for your patience.",
    "Danke!",
    "Vielen Dank für den Tipp!",
    "Ah super, danke dir.",
)
GOES_ON = (
    "You're welcome! Now, what do you get for the second one?",
    "No problem. Tell me what you see in the graph.",
    "Any time! Let's look at line 3 again.",
    "Glad I could help. Before you go: how would you check it?",
    "My pleasure! But why does it work for negative numbers, too?",
    "You are welcome. Try it with 4 pieces instead.",
    "Happy to help! Next question: who signed it?",
    "Gerne! Und was passiert, wenn du den Nenner verdoppelst?",
    "Bitte sehr. Jetzt versuch es mit der zweiten Gleichung.",
    "Kein Problem! Erklär mir noch, wie du auf 12 kommst.",
)
ANSWERED = (
    "Thanks. I multiplied both sides by the same number.",
    "Thank you, I think it is the mitochondria.",
    "Thanks, but I still don't see why the sign changes.",
    "Okay, thanks. So the answer has to be even?",
    "Thank you! Then x is 4.",
    "Thanks! The verb moves to the end, because it is a side clause.",
    "Cool, thanks. It sinks as its density is greater than that of water.",
    "Danke, ich glaube, es sind sechs.",
    "Danke! Der Satz steht im Perfekt, weil etwas schon vorbei ist.",
    "Danke, aber warum ist der Himmel dann abends rot?",
)
TAUGHT = (
    "And so both triangles have the same area.",
    "That is why the loop runs one time less than you expected.",
    "So remember to convert the units before you add.",
    "Good, you have found all of the primes below 20.",
    "The poem therefore has three voices, not two.",
    "Exactly, the current is the same everywhere in the circuit.",
    "Then the treaty of 1648 ended the war.",
    "Damit ist der Beweis fertig.",
    "Genau, der Zähler bleibt gleich.",
    "Also steht das Verb am Ende des Nebensatzes.",
)


def polite_dialogues() -> list[list[str]]:
    """Three hundred dialogues in which somebody is polite and nobody goes round in goodbyes."""
    thanked = [["What do you think?", *pair] for pair in product(THANKS, GOES_ON)]
    answered = [[courtesy, reply] for courtesy, reply in product(THANKS, ANSWERED)]
    last_word = [[taught, thanks] for taught, thanks in product(TAUGHT, THANKS)]
    return [*thanked, *answered, *last_word]


def turns(texts: list[str]) -> list[Turn]:
    return [Turn(index=index, role="ab"[index % 2], text=text, attempts=[]) for index, text in enumerate(texts)]


def test_politeness_stops_no_lesson() -> None:
    """False stops are at most one in a hundred, over every prefix of each dialogue."""
    dialogues = polite_dialogues()
    stopped = [
        texts
        for texts in dialogues
        if any(closing_turns(turns(texts[:said])) >= IN_A_ROW for said in range(1, len(texts) + 1))
    ]
    assert len(dialogues) == 300
    assert len(stopped) <= 3, f"{len(stopped)} of 300 are stopped: {stopped[:10]}"


@pytest.mark.parametrize(
    "text",
    [
        "Thank you!",
        "You're welcome! Have a great day!",
        "You\u2019re very welcome, keep up the good work!",
        "Bye!",
        "Same to you!",
        "Gern geschehen, bis zum nächsten Mal!",
        "Tschüss und einen schönen Tag noch!",
    ],
)
def test_a_goodbye_closes(text: str) -> None:
    assert is_closing(text)


@pytest.mark.parametrize(
    "text",
    [
        "Goodbye is a contraction of what phrase?",
        "Thank you, 12 then.",
        "Yes, that is right.",
        "Thanks, but I am lost.",
        "Hola, gracias por todo, adiós.",  # no lexicon for it: a dialogue in Spanish goes on to its last turn
        "Thanks for the explanation of refraction. Light slows down in glass, bends toward the normal, and leaves parallel.",
        "",
    ],
)
def test_what_says_more_than_goodbye_does_not_close(text: str) -> None:
    assert not is_closing(text)


def test_goodbyes_are_counted_from_the_end() -> None:
    assert closing_turns(turns(["Bye!", "Why?", "Thanks!", "You're welcome!", "Bye!"])) == 3
    assert closing_turns(turns(["Bye!", "Bye!"])) == 2
    assert closing_turns([]) == 0
