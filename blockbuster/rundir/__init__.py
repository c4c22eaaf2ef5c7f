"""What a run keeps on disk while it works."""
