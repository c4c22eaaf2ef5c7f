"""One call, from arguments to labels: options, plan, what lies on disk, run."""
