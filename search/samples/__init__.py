"""Sample data that is drawn, not downloaded."""
