"""What is taught: the files that briefs come in, all checked before a run begins."""
