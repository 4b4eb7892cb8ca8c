"""Who takes part in this project's dialogues."""
