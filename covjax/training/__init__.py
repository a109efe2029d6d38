"""Training: the contract of a task, the one loop, and the tasks."""
