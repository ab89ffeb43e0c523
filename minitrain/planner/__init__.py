"""Choose a training strategy by formulas: what fits, what it sends, and how long an update takes."""
