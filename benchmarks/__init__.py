"""Benchmarks: each prints its figures as ratios between competitors that took turns in one run."""
