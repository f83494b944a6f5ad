"""What a study has found: facts, ranking, notes, graphs, report, export."""
