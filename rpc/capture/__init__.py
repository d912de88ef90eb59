"""Ways to notice the changes of a database that somebody else writes."""
