"""Studies in the store: their slots, reports, limits, workers and reasons."""
