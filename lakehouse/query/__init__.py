"""Reading the lake: after the commit, and never in its way."""
