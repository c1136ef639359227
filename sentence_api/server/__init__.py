"""Everything that knows gunicorn: its worker, its processes and their logs."""
