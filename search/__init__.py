"""Studies, workers, store, export and the command line."""
