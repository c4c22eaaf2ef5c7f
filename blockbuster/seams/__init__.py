"""What tiles know of each other: stretches of labels, pairs that touch, and how far two tiles agree."""
