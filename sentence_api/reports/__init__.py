"""Reports of what happened, as HTML, Markdown and JSON."""
