"""What is counted of answers, and how sure a figure is."""
