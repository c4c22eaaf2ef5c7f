"""Where final labels go: storage layout, targets, and publishing in one step."""
