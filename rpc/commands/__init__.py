"""What `evodb NAME` does for a child: one module per command, and what they share."""
