"""Strategies for dividing the work over ranks, and their building blocks: buckets, reducers, collectives."""
