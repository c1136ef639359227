"""Export: turns a model into an artifact and proves that it is faithful."""
