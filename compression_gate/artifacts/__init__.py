"""Models on disk: made by a chain of steps, exported to what ships, decoded in fresh processes, opened to be judged."""
