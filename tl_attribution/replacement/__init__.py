"""The local replacement model: a prompt with attention and norms frozen, and its edges."""
