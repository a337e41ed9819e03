"""Personal data of a request replaced by pseudonyms, and restored in its answer."""
