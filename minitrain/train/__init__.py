"""Putting it all together: configuration, the step, the trainer, checkpoints, samples."""
