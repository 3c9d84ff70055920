"""Files that other tools write: read without torch, and without running anything in them."""
