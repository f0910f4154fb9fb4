"""Windows as OS processes: what should run, what does run, and what is done about the difference."""
