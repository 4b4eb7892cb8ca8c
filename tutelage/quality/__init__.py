"""What a data set must pass: duplicates, diversity, lineage, splits."""
