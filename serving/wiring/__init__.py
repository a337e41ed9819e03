"""The parts of one gateway, made from the configuration and joined; and their end."""
