"""The engine, for any model and any data: the training step, the trainer, its history, and checkpoints."""
