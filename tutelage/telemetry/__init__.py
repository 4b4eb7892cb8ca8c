"""What a run tells of itself: log lines."""
