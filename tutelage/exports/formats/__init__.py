"""The formats: what of a transcript becomes a row, one file for each way of training."""
