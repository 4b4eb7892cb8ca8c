"""Exports: transcripts as the rows that a trainer reads, cleaned, split, counted, as a data set with a card."""
