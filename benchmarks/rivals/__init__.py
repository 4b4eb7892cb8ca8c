"""The same dialogues as jobs of other tools: for `benchmarks.resuming`, which runs each with its tool's own Python."""
