"""Tasks: what a task is, the durable engine that moves it, and workflow files."""
