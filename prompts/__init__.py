"""The built-in prompts: one Markdown template for each role or purpose. A user's `prompts/NAME.md` overrides ours."""
