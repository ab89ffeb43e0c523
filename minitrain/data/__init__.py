"""Data: the bundled text and images, and the loaders that turn data into batches."""
