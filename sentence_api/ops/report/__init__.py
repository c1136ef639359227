"""What happened, as a page: from the history to HTML, Markdown and JSON."""
