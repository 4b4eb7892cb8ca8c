"""What a tutor says, held against what is known: claims, documents, search, and the fact-checking node."""
