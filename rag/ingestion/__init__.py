"""From a waiting file to published chunks; recovery after a kill, and the check of it all."""
