"""What a thing is: a function, an owner, a file that nobody changed."""
