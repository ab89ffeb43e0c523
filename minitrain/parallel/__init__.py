"""Ways of dividing the work: buckets, reducers, and the strategies."""
