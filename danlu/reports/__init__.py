"""What runs came to, for people: tables, curves, comparisons."""
