"""Atlas, the bundled model: its facts, its text, its training and its weights."""
