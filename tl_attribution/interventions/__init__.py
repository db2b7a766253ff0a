"""Interventions: features held at values, in a prompt and in the text that follows it."""
