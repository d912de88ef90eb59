"""Everything after the commit: who wants to hear of which changes, and what became of telling them."""
