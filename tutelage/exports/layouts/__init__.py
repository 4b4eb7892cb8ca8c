"""How each tool wants its rows laid out."""
