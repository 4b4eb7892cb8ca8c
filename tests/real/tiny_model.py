"""Make a tiny chat model and two LoRA adapters, in seconds, from nothing but this file.

    .venv-vllm/bin/python tests/real/tiny_model.py FOLDER

writes FOLDER/model (a Llama of half a million parameters with its tokenizer and chat template) and
FOLDER/adapters/{a,b} (peft's file layout). It runs in .venv-vllm or .venv-trainers, not in Tutelage's own environment.

The model is trained for a few seconds on the lessons below. It learns nothing of use, but it ends its turns, and in JSON
its strings, after nearly any prompt; a random one hardly ever does, and would fill its replies up to `max_tokens`. The
adapters are random: a reply through one of them is garbled.
"""

import json
import sys
from pathlib import Path

import torch  # type: ignore[import-not-found]
from safetensors.torch import save_file  # type: ignore[import-not-found]
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]
from transformers import (  # type: ignore[import-not-found]
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SEED = 7
VOCABULARY = 1024
CONTEXT = 4096
STEPS = 120
BATCH, ROW = 8, 128
ADAPTER_RANK, ADAPTER_ALPHA = 8, 4
"""Of a strength that changes what is said, while it still comes to an end; at twice the alpha half of it does not."""
ADAPTED = {"q_proj": (128, 128), "v_proj": (128, 64), "down_proj": (384, 128)}
"""The adapted projections, each with its input and output width."""

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

# `{% generation %}` marks what TRL's assistant-only loss is computed on. With a generation prompt, the text of a prompt
# is a prefix of the text of prompt and completion, which TRL demands too.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

LESSONS = [
    ("Why is one half larger than one third?", "Because two is smaller than three, so each part is bigger."),
    (
        "How do I add one quarter and one half?",
        "Write both over four: one quarter and two quarters make three quarters.",
    ),
    ("Is zero an even number?", "Yes. It leaves no remainder when you divide it by two."),
    ("What is a prime number?", "A whole number above one that only one and itself divide."),
    ("Why does ice float on water?", "Ice is less dense, because its molecules stand further apart in the crystal."),
    ("Do heavy stones fall faster than light ones?", "No. Without air they reach the ground at the same moment."),
    ("Where does the mass of a tree come from?", "Mostly from the carbon dioxide that the leaves take out of the air."),
    ("Why do we have summer and winter?", "The axis of the Earth is tilted, so sunlight falls at another angle."),
    ("What does a loop do in a program?", "It repeats the same lines until its condition is false."),
    ("Why is my list changed after the call?", "The function received the list itself, and not a copy of it."),
    ("What is recursion good for?", "It solves a problem through a smaller problem of the same kind."),
    ("When did the Roman Republic end?", "Historians usually say in 27 BC, when Augustus became emperor."),
    ("Who invented the printing press in Europe?", "Johannes Gutenberg, at Mainz, around the year 1450."),
    ("Why did the dinosaurs die out?", "Probably an asteroid hit the Earth and the climate changed quickly."),
    ("What is the past tense of go?", "It is went, which comes from another old verb."),
    ("When do I write its without an apostrophe?", "When it shows possession, as in: the dog wagged its tail."),
    ("How can we check that the answer is right?", "Put the value back into the equation and compare both sides."),
    ("I think that multiplying always makes things bigger.", "Try it with one half: half of ten is only five."),
    ("Can you give me a hint, please?", "Look at the denominators first. What do they have in common?"),
    ("So the answer would be five sixths?", "Exactly! Now explain in your own words why that holds."),
    ("Which planet has the shortest year?", "Mercury: it circles the Sun in eighty-eight days."),
    ("How does a vaccine protect us?", "It shows the immune system a harmless piece of the virus."),
    ("Why does bread dough rise?", "Yeast turns sugar into gas, and bubbles stretch the sticky gluten."),
    ("What is a metaphor?", "A comparison without like or as, for example: time is money."),
    ("Which gas do we breathe out?", "Carbon dioxide, together with nitrogen and some unused oxygen."),
    ("What did Galileo observe through his telescope?", "Four moons of Jupiter, and mountains on our own Moon."),
]

PHRASES = [
    "ask a question",
    "give a hint",
    "the",
    "the",
]
"""`the` stands in most drafts: as the span of an issue it points at something."""

VERDICTS = [
    '{"verdict":"accept","issues":[]}',
    '{"verdict":"revise","issues":[{"dimension":"truth","severity":"block","span":"the","instruction":"ask a question"}]}',
    '{"verdict":"revise","issues":[{"dimension":"clarity","severity":"major","span":"the","instruction":"give a hint"}]}',
    '{"answer":"five","confident":true,"score":4}',
    '{"accuracy":4,"clarity":3,"agrees":false,"score":0.5}',
]


def main(folder: Path) -> None:
    """Write the model and its adapters below `folder`."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # two threads on two busy cores wait for each other: 250 s were seen in place of 5
    tokenizer = train_tokenizer([given + said for given, said in samples()])
    model = train_model(tokenizer)
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in ("a", "b"):
        save_adapter(folder / "adapters" / name, layers=model.config.num_hidden_layers)


def samples() -> list[tuple[str, str]]:
    """What the model is given, and what it learns to say then.

    It opens no verdict by itself, but goes on with one that a schema has opened, and its strings are short whatever
    their key is.
    """
    asked = [(f"<|user|>{question}<|end|><|assistant|>", f"{answer}<|end|>") for question, answer in LESSONS]
    alone = [("<|assistant|>", said) for _, said in asked]
    strings = [('":"', phrase + closing) for phrase in PHRASES for closing in ('"', '",', '"}', '"]')]
    verdicts = [("<|assistant|>{", f"{verdict[1:]}<|end|>") for verdict in VERDICTS]
    return asked + alone + strings + verdicts * 5


def train_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of exactly `VOCABULARY` tokens: every text can be written in it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the lessons give only {tokenizer.get_vocab_size()} of {VOCABULARY} tokens: write more")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def train_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Train the Llama to end what it says, whatever came before; some seconds on one core."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # vLLM on the CPU starts with 16 too, and dies at the first request
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=STEPS)
    for _ in range(STEPS):
        ids, labels = draw_batch(tokenizer)
        optimizer.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        decay.step()
    return model


def draw_batch(tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of samples between stretches of random tokens, and their labels, each (BATCH, ROW); only what is said counts."""
    drawn = [tuple(tokenizer(list(sample))["input_ids"]) for sample in samples()]
    ids = torch.randint(len(ROLES) + 2, VOCABULARY, (BATCH, ROW))
    labels = torch.full((BATCH, ROW), -100)
    for row in range(BATCH):
        position = int(torch.randint(ROW // 2, ()))
        while position < ROW:
            given, said = drawn[int(torch.randint(len(drawn), ()))]
            start, end = position + len(given), position + len(given) + len(said)
            ids[row, position:end] = torch.tensor(given + said)[: ROW - position]
            labels[row, start:end] = ids[row, start:end]
            position = end + int(torch.randint(ROW // 8, ()))
    return ids, labels


def save_adapter(folder: Path, *, layers: int) -> None:
    """Write a random adapter as peft does: its config, and A (rank, in) and B (out, rank) of each projection."""
    tensors = {}
    for layer in range(layers):
        for projection, (width_in, width_out) in ADAPTED.items():
            block = "mlp" if projection == "down_proj" else "self_attn"
            name = f"base_model.model.model.layers.{layer}.{block}.{projection}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(ADAPTER_RANK, width_in) / width_in**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(width_out, ADAPTER_RANK) / ADAPTER_RANK**0.5
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": ADAPTER_RANK,
        "lora_alpha": ADAPTER_ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(ADAPTED),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
