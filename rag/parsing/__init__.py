"""Files in, text out. Runs in a process of its own, for a hostile file to harm nobody."""
