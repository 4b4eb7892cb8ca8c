"""Where preference pairs come from: revisions, candidates of one prompt, and what people decided."""
