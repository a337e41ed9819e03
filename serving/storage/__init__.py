"""What outlives a process: the SQL database, its tables and its migrations."""
