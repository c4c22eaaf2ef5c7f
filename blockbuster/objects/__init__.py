"""Objects of labels that are complete: their table and their outlines."""
