"""Who keeps dialogues going: the run, its folder, its ledger, its progress."""
