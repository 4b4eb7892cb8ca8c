"""Where words come from: the chat model for vLLM, the endpoints behind it, the embedded model."""
