"""What is kept of a dialogue: its schema, its store, and the training files that are made of it."""
