"""What may be tried: typed trial configs, the study file, and the default search spaces."""
