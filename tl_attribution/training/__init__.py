"""Training of transcoders: settings, data, losses, checkpoints and several processes."""
