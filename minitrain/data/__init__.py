"""Data: a text and a set of images that ship with the package, and what turns them into batches."""
