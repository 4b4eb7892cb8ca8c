"""The built-in dialogues, one file each, one screen each."""
