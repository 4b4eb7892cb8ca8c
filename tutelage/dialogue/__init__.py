"""What a dialogue is, and how roles take part in it."""
