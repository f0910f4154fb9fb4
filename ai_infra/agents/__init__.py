"""What runs inside an agent's window: it claims tasks, runs them, checks the result, answers for it."""
