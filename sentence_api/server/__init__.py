"""gunicorn integration: its worker, its processes and their logs."""
