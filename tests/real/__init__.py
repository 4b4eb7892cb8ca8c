"""Tests against the real thing: vLLM's server on the CPU, and TRL's trainers.

They need environments of their own and take minutes, so a plain `pytest` leaves them out (see conftest.py):

    make test-vllm        .venv-vllm: vLLM's OpenAI server with a tiny model and two adapters
    make test-trainers    .venv-trainers: one step of SFTTrainer and of DPOTrainer
"""
