"""Runs side by side: the table of them (`overview`), who is best (`ranking`), what made it so (`effects`)."""
