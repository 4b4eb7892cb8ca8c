"""What a judge is shown, and whose kin it is."""

import pytest

from tutelage import Agent, Brief, Dialogue
from tutelage.agents import critic
from tutelage.dialogue.judging import as_judged, family
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.turn import Attempt, Call
from tutelage.dialogue.view import choice_prompt, judge_prompt

PLAIN = "Look at the denominators: 2 and 3. Which number is in both tables? Say why."
DRESSED = [
    "**Look** at the denominators: 2 and 3. Which number is in *both* tables? Say why.",
    "Look at __the denominators__: 2 and 3. Which number is in _both_ tables? Say `why`.",
    "### Look at the denominators: 2 and 3. Which number is in ***both*** tables? Say why.",
    "> Look at the denominators: 2 and 3. Which number is in [both tables](https://example.org/a)? Say why.",
    "- Look at the denominators: 2 and 3. Which number is in ~~both~~ tables? Say why.",
    "Hi there! Look at the denominators: 2 and 3. Which number is in both tables? Say why.",
    "Hello Anna, Look at the denominators: 2 and 3. Which number is in both tables? Say why.",
    "Great question! Look at the denominators: 2 and 3. Which number is in both tables? Say why.",
    "Good morning, dear! What a really wonderful question! **Look** at the denominators: 2 and 3. Which number is in "
    "both tables? Say why.",
    "Hey! I love how curious you are! Thanks so much for asking! Look at the denominators: 2 and 3. Which number is "
    "in both tables? Say why.",
    "That's such a good question. You're so smart! Look at the denominators: 2 and 3. Which number is in both tables? "
    "Say why.",
    "Guten Tag! Look at the denominators: 2 and 3. Which number is in both tables? Say why.",
]


@pytest.mark.parametrize("text", DRESSED)
def test_marks_greetings_and_compliments_are_not_shown_to_a_judge(text: str) -> None:
    assert as_judged(text) == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "So 2 * 3 * 4 is 24, and 2*3*4 is, too.",
        "Call it first_term or __init__, and f(a_1, b_1).",
        "What is 5 - 3?",
        "1. Add the tops.\n2. Add the bottoms.",
        "Correct! Now the next one.",
        "Well done! Why is that so?",
        "Exactly right, it is 5/6.",
        "That is a good answer, but why?",
        "Good: both are halves.",
        "Hello is a word of five letters.",
        "Great numbers can be written with powers.",
        "You are right. Great questions come from doubt.",
        "Is a > b or b > a?",
        "We write #include at the top.",
        "Hello!",
        "Great question!",
    ],
)
def test_what_says_something_of_the_matter_stays(text: str) -> None:
    assert as_judged(text) == text


def test_code_keeps_its_letters() -> None:
    assert as_judged("Run this:\n\n```python\nx = a ** b ** c  # *power*\n```\n\nand `d**e**f`.") == (
        "Run this:\n\nx = a ** b ** c  # *power*\n\nand d**e**f."
    )


def test_stripping_twice_is_stripping_once() -> None:
    for text in [*DRESSED, PLAIN]:
        assert as_judged(as_judged(text)) == as_judged(text)


@pytest.mark.parametrize("text", DRESSED)
def test_a_judge_is_shown_the_same_of_a_draft_in_bold_or_with_a_greeting(text: str) -> None:
    """At temperature 0, and with the same seed, its verdict is then the same, too."""

    def shown(draft: str) -> str:
        attempt = Attempt(text=draft, status="pending", call=Call(model="m", prompt_sha256="0"))
        dialogue: Dialogue = {"brief": Brief(topic="t"), "turns": [], "speaker": "tutor", "attempts": [attempt]}
        judge = Agent(role="judge", prompt="review", task="critic", sees=critic.sees)
        prompts = PromptLibrary()
        pair = choice_prompt(judge, dialogue, "tutor", [attempt, attempt], prompts)
        return judge_prompt(critic, dialogue, prompts).sha256 + pair.sha256

    assert shown(text) == shown(PLAIN)


def test_judges_have_a_temperature_of_zero() -> None:
    from tutelage.agents.arbiter import arbiter

    assert {agent.sampling["temperature"] for agent in (critic, arbiter)} == {0.0}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Qwen/Qwen3-32B", "qwen"),
        ("qwen2.5-7b-instruct-awq", "qwen"),
        ("Qwen/QwQ-32B", "qwen"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama"),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "llama"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama"),
        ("nvidia/Llama-3.1-Nemotron-70B-Instruct-HF", "llama"),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "nemotron"),
        ("teknium/OpenHermes-2.5-Mistral-7B", "mistral"),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", "mistral"),
        ("mistralai/Ministral-8B-Instruct-2410", "mistral"),
        ("google/gemma-3-12b-it", "gemma"),
        ("microsoft/Phi-4-mini-instruct", "phi"),
        ("microsoft/phi-4", "phi"),
        ("cognitivecomputations/dolphin-2.9-llama3-8b", "llama"),
        ("openai/gpt-oss-120b", "gpt-oss"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm"),
        ("SmolLM2-135M-Instruct", "smollm"),
        ("allenai/OLMo-2-1124-13B-Instruct", "olmo"),
        ("ibm-granite/granite-3.3-8b-instruct", "granite"),
        ("THUDM/GLM-4-9B", "glm"),
        ("large", None),
        ("our-tutor-v3", None),
        ("acme/sapphire-2", None),
        ("", None),
    ],
)
def test_a_model_s_family_is_that_of_its_base_where_the_name_shows_it(model: str, expected: str | None) -> None:
    assert family(model) == expected
