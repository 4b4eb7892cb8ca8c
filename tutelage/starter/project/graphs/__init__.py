"""This project's dialogues, one file each."""
