"""One config in, one measured result out; knows neither Optuna nor the database."""
