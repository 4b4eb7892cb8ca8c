"""What is done to the rows before they are written."""
