"""The web server: optuna-dashboard behind its guards, and what it shows."""
