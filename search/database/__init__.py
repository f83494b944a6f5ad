"""The study store: its tables, its versions, and the private formats of Optuna."""
