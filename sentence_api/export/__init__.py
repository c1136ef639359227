"""Export: makes an artifact of a model and proves that it is faithful."""
