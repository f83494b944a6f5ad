"""Early stopping: curves, rules, and searches replayed under them."""
