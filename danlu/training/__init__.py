"""The loop that makes a loss smaller, and what it keeps on the way."""
