"""The config: what is read, what counts first, and what a mistake is told."""

from pathlib import Path

import pytest

from tutelage.config import load_config
from tutelage.errors import ConfigError

GOOD = """
run: fractions
graph: lesson
models:
  large: {url: "http://gpu-1:8000/v1/", model: Qwen/Qwen3-32B, api_key: "${LARGE_KEY}"}
  small: {url: ["http://gpu-2:8000/v1", "http://gpu-3:8000/v1"], model: Qwen/Qwen3-4B}
roles:
  tutor: {model: large, temperature: 0.7, max_tokens: 1024}
  student: {model: small, adapter: v2, extra: {min_tokens: 3}}
  critic: {model: large}
  fact_checker: {model: large}
briefs:
  - from: briefs/*.jsonl
limits: {messages: 16, revisions: 2, tokens: 8192}
target: {dialogues: 10000}
concurrency: 256
seed: 7
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_contract_s_config_is_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.models["large"].url == ("http://gpu-1:8000/v1",)
    assert len(config.models["small"].url) == 2
    assert config.roles["student"].sampling() == {"min_tokens": 3}
    assert config.roles["tutor"].sampling() == {"temperature": 0.7, "max_tokens": 1024}
    assert config.folder == tmp_path
    assert (config.target.dialogues, config.seed) == (10000, 7)


def test_a_key_is_looked_up_when_it_is_used_and_never_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write(tmp_path, GOOD))
    with pytest.raises(ConfigError, match=r"\$\{LARGE_KEY\} is not in the environment"):
        config.models["large"].secret()
    monkeypatch.setenv("LARGE_KEY", "sk-very-secret")
    secret = config.models["large"].secret()
    assert secret is not None
    assert secret.get_secret_value() == "sk-very-secret"
    assert "sk-very-secret" not in str(load_config(write(tmp_path, GOOD)).as_written())
    assert "${LARGE_KEY}" in str(config.as_written())


def test_a_key_that_is_written_into_the_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a key is never written down"):
        load_config(write(tmp_path, GOOD.replace("${LARGE_KEY}", "sk-very-secret")))


def test_other_values_are_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("http://gpu-1:8000/v1/", "http://${HOST}:8000/v1")
    with pytest.raises(ConfigError, match=r"models.large.url: \$\{HOST\} is not in the environment"):
        load_config(write(tmp_path, text))
    monkeypatch.setenv("HOST", "gpu-9")
    assert load_config(write(tmp_path, text)).models["large"].url == ("http://gpu-9:8000/v1",)


def test_the_environment_counts_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_LIMITS__MESSAGES", "8")
    monkeypatch.setenv("TUTELAGE_CONCURRENCY", "3")
    config = load_config(write(tmp_path, GOOD))
    assert (config.limits.messages, config.limits.revisions, config.concurrency) == (8, 2, 3)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "temperature: 0.7",
            "temprature: 0.7",
            r"line 8: roles.tutor.temprature: unknown key; did you mean 'temperature'\?",
        ),
        ("seed: 7", "sede: 7", r"line 17: sede: unknown key; did you mean 'seed'\?"),
        ("messages: 16", "messages: 0", "line 14: limits.messages: .*greater than or equal to 1"),
        ("messages: 16", "messages: many", "line 14: limits.messages: .*valid integer"),
        ("http://gpu-2:8000/v1", "gpu-2:8000", "line 6: models.small.url: 'gpu-2:8000' is no URL"),
        (
            "tutor: {model: large",
            "tutor: {model: lage",
            "roles.tutor.model: there is no model 'lage'.*'large', 'small'",
        ),
        ("critic: {model: large}", "critic: {}", "roles.critic: say which model plays it"),
        ("run: fractions\n", "", "run: is missing"),
        ("run: fractions", "run: a/b", "line 2: run: "),
        ("briefs:\n  - from: briefs/*.jsonl\n", "", "briefs: is missing"),
        ("graph: lesson", "graph: [", "no valid YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(tmp_path: Path, before: str, after: str, message: str) -> None:
    assert before in GOOD
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, GOOD.replace(before, after)))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("seed: 7", "sede: 7").replace("messages: 16", "messages: 0")
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, text))
    assert len(str(error.value).splitlines()) == 2


def test_a_config_that_is_not_there_or_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="`key: value` lines"):
        load_config(write(tmp_path, "- a\n- b\n"))


def test_a_mapping_does_as_well_as_a_file() -> None:
    config = load_config({"run": "r", "briefs": [{"from": "b.jsonl"}]})
    assert config.model_of("tutor") is None


def test_a_secret_for_servers_that_are_launched_is_not_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-very-secret")
    small = '{serve: {model: Qwen/Qwen3-4B, env: {HF_TOKEN: "${HF_TOKEN}"}}}'
    text = GOOD.replace('{url: ["http://gpu-2:8000/v1", "http://gpu-3:8000/v1"], model: Qwen/Qwen3-4B}', small)
    written = str(load_config(write(tmp_path, text)).as_written())
    assert "${HF_TOKEN}" in written
    assert "hf-very-secret" not in written


def test_what_yaml_or_the_environment_make_of_a_text_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="True: unknown key"):
        load_config(write(tmp_path, GOOD + "on: true\n"))
    (tmp_path / "latin.yaml").write_bytes("run: caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match="no UTF-8"):
        load_config(tmp_path / "latin.yaml")
    monkeypatch.setenv("TUTELAGE_LIMITS", "abc")
    with pytest.raises(ConfigError, match="limits"):
        load_config(write(tmp_path, GOOD))
