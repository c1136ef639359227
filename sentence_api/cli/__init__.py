"""Commands of `python -m sentence_api`, one file each."""
