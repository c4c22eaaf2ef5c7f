"""What is measured of objects: sums in every tile, folded through the merge, and their table."""
