"""What is wrong with labels, and what to label next."""
