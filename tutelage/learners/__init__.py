"""Students that learn: what they know, how they act on it, who they are, and what they have learned."""
