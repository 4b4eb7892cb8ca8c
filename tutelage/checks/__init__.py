"""What a turn must pass, and how a dialogue's end is seen in its text."""
