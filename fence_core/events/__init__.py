"""What was tried, and what became of it: plain records that cross processes."""
