"""`Detector`: the process that finds personal data in texts."""
